//! Arrays in NumPy's .npy format, by npyz: written to a temporary name that is renamed when all is
//! there; read whole, for `infer`. A header is bounded before npyz parses it, and the shape is
//! compared with the file's length before anything is allocated, so that no file can overflow,
//! recurse or allocate at will.

use super::error::ReplayError;
use crate::disk::Replacement;
use crate::input;
use crate::observation::{ACTIONS, FEATURES};
use crate::plural::counted;
use npyz::{DType, NpyHeader, Order, WriterBuilder};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What is read of a file to find its header, which takes about 120 bytes in a plain array's.
const HEADER_BYTES_MAX: u64 = 4096;

/// Rows of equal length, one behind the other.
#[derive(Clone, PartialEq, Debug)]
pub struct Array<T> {
    /// Number of rows.
    pub rows: usize,
    /// All entries.
    pub data: Vec<T>,
}

/// Reads features for the network: float32, any number of rows of 256.
///
/// # Errors
/// When the file is no such array or holds anything but finite numbers.
pub fn read_features(path: &Path) -> Result<Array<f32>, ReplayError> {
    let (rows, bytes) = read(path, "float32", &["<f4"], FEATURES, size_of::<f32>())?;
    let entries = bytes.as_chunks().0.iter();
    let data: Vec<f32> = entries.map(|&four| f32::from_le_bytes(four)).collect();
    if let Some(at) = data.iter().position(|value| !value.is_finite()) {
        let (row, column) = (at / FEATURES, at % FEATURES);
        let what = format!("row {row}, column {column} is {}: not a feature", data[at]);
        return Err(ReplayError::of_path(path, what, ""));
    }
    Ok(Array { rows, data })
}

/// Reads masks of legal actions: uint8 or bool, any number of rows of 52, 1 where legal.
///
/// # Errors
/// When the file is no such array, holds other numbers, or a row has no legal action.
pub fn read_mask(path: &Path) -> Result<Array<u8>, ReplayError> {
    let (rows, data) = read(path, "uint8", &["|u1", "<u1", "|b1"], ACTIONS, 1)?;
    for (row, mask) in data.chunks_exact(ACTIONS).enumerate() {
        if let Some(other) = mask.iter().find(|&&entry| entry > 1) {
            let what = format!("row {row} holds {other}: a mask holds 1 (legal) and 0");
            return Err(ReplayError::of_path(path, what, ""));
        }
        if !mask.contains(&1) {
            let what = format!("row {row} has no legal action");
            return Err(ReplayError::of_path(path, what, ""));
        }
    }
    Ok(Array { rows, data })
}

/// Writes rows of float32, one behind the other in `data`, and leaves it to the caller to put the
/// file in its place.
///
/// # Errors
/// When `data` is not `rows * columns` long or the file cannot be written.
pub fn prepare_f32(
    path: &Path,
    rows: usize,
    columns: usize,
    data: &[f32],
) -> Result<Replacement, ReplayError> {
    if rows.checked_mul(columns) != Some(data.len()) {
        let what = format!("{} numbers are not {rows} rows of {columns}", data.len());
        return Err(ReplayError::of_path(path, what, ""));
    }
    let mut writer = ArrayWriter::create(path, rows as u64, columns)?;
    writer.rows(data)?;
    writer.finish()
}

/// An array being written, under a temporary name.
pub(super) struct ArrayWriter<T: npyz::Serialize + npyz::AutoSerialize> {
    path: PathBuf,
    replacement: Replacement,
    writer: npyz::NpyWriter<T, BufWriter<File>>,
}

impl<T: npyz::Serialize + npyz::AutoSerialize> ArrayWriter<T> {
    /// Begins an array of this shape.
    pub(super) fn create(path: &Path, rows: u64, columns: usize) -> Result<Self, ReplayError> {
        let replacement = Replacement::begin(path)?;
        let begin = || {
            let file = replacement.file().try_clone()?;
            npyz::WriteOptions::new()
                .default_dtype()
                .shape(&[rows, columns as u64])
                .writer(BufWriter::with_capacity(1 << 16, file))
                .begin_nd()
        };
        let writer = begin().map_err(ReplayError::io("write", path))?;
        Ok(ArrayWriter {
            path: path.to_path_buf(),
            replacement,
            writer,
        })
    }

    /// Appends whole rows.
    pub(super) fn rows(&mut self, data: &[T]) -> Result<(), ReplayError> {
        data.iter()
            .try_for_each(|entry| self.writer.push(entry))
            .map_err(ReplayError::io("write", &self.path))
    }

    /// The whole array, on the disk, to be put in its place.
    pub(super) fn finish(self) -> Result<Replacement, ReplayError> {
        self.writer
            .finish()
            .map_err(ReplayError::io("write", &self.path))?;
        self.replacement.flush()?;
        Ok(self.replacement)
    }
}

/// Reads an array of `columns` columns of one of these types: the number of rows and the raw bytes.
fn read(
    path: &Path,
    name: &str,
    types: &[&str],
    columns: usize,
    width: usize,
) -> Result<(usize, Vec<u8>), ReplayError> {
    let io = |error| ReplayError::io("read", path)(error);
    let mut file = input::open(path).map_err(ReplayError::io("open", path))?;
    let length = file.metadata().map_err(io)?.len();
    let mut start = Vec::new();
    let first = (&file).take(HEADER_BYTES_MAX).read_to_end(&mut start);
    first.map_err(io)?;
    let (header, header_bytes) = parse_header(&start)
        .map_err(|what| ReplayError::of_path(path, what, "write one with numpy.save"))?;
    let dtype = match header.dtype() {
        DType::Plain(dtype) => dtype.to_string(),
        other => other.descr(),
    };
    if !types.contains(&dtype.as_str()) {
        let (what, remedy) = (
            format!("type {dtype}, not {name}"),
            format!("save it as {name}"),
        );
        return Err(ReplayError::of_path(path, what, &remedy));
    }
    if header.order() == Order::Fortran {
        let remedy = "save it with numpy.ascontiguousarray";
        return Err(ReplayError::of_path(path, "in Fortran order", remedy));
    }
    let rows = match *header.shape() {
        [rows, row] if row == columns as u64 => rows,
        _ => {
            let what = format!("shape {:?}, not [N, {columns}]", header.shape());
            return Err(ReplayError::of_path(path, what, ""));
        }
    };
    let row_bytes = (columns * width) as u64;
    let held = length.saturating_sub(header_bytes);
    if rows.checked_mul(row_bytes) != Some(held) {
        let (rows, held) = (counted(rows, "row"), counted(held, "byte"));
        let what = format!("{rows} of {row_bytes} bytes, but {held} after the header: cut off?");
        return Err(ReplayError::of_path(path, what, ""));
    }
    let mut data = Vec::with_capacity(held as usize);
    file.seek(SeekFrom::Start(header_bytes))
        .and_then(|_| file.take(held).read_to_end(&mut data))
        .map_err(io)?;
    if data.len() as u64 != held {
        return Err(ReplayError::of_path(
            path,
            "was cut off while it was read",
            "",
        ));
    }
    Ok((rows as usize, data))
}

/// What stands before the data, and its length in bytes. The text is bounded before npyz parses it,
/// which it does by recursion, multiplying the sizes without a check.
///
/// # Errors
/// What is wrong with it.
fn parse_header(start: &[u8]) -> Result<(NpyHeader, u64), String> {
    let is_cut = || "too short for its header".to_string();
    let [.., version, _] = start.first_chunk::<8>().ok_or_else(is_cut)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("no .npy file".into());
    }
    // The text's length has 16 bits in version 1, 32 in those after it, where the upper are 0.
    let (length, text) = start[8..].split_first_chunk().ok_or_else(is_cut)?;
    let no_plain_array = || "its header describes no plain array".to_string();
    let text = match version {
        1 => text,
        2 | 3 => {
            let (upper, text) = text.split_first_chunk::<2>().ok_or_else(is_cut)?;
            (*upper == [0, 0])
                .then_some(text)
                .ok_or_else(no_plain_array)?
        }
        other => return Err(format!("version {other} of the .npy format, not 1 to 3")),
    };
    let length = u16::from_le_bytes(*length).into();
    let text = match text.get(..length) {
        Some(text) => text,
        None if (start.len() as u64) < HEADER_BYTES_MAX => return Err(is_cut()),
        None => return Err(no_plain_array()),
    };
    let count = |of: fn(&u8) -> bool| text.iter().filter(|byte| of(byte)).count();
    // One dictionary with one tuple in it. A product has no more digits than its factors together,
    // and 19 fit into 64 bits; hexadecimal ones, which are worth more, follow an x.
    let is_bounded = count(|byte| b"([{".contains(byte)) <= 2
        && count(u8::is_ascii_digit) <= 19
        && count(|byte| b"xX".contains(byte)) == 0;
    let mut rest = start;
    let header = is_bounded.then(|| NpyHeader::from_reader(&mut rest).ok());
    let header = header.flatten().ok_or_else(no_plain_array)?;
    Ok((header, (start.len() - rest.len()) as u64))
}
