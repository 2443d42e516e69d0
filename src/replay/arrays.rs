//! Arrays in NumPy's .npy format: written with npyz, to a temporary name that is renamed when all is
//! there; read whole, for `infer`. The header is read by a parser of its own, of only what is wanted
//! here (two dimensions, little-endian rows): shape and size are compared with the file's length before
//! anything is allocated, and no header can overflow, recurse or allocate.

use super::error::ReplayError;
use crate::disk::Replacement;
use crate::input;
use crate::observation::{ACTIONS, FEATURES};
use crate::plural::counted;
use npyz::WriterBuilder;
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

/// A header longer than this belongs to no plain array.
const MAX_HEADER_BYTES: usize = 4096;

/// Rows of equal length, one behind the other.
#[derive(Clone, PartialEq, Debug)]
pub struct Array<T> {
    /// Number of rows.
    pub rows: usize,
    /// Length of a row.
    pub columns: usize,
    /// `rows * columns` entries.
    pub data: Vec<T>,
}

/// Reads features for the network: float32, any number of rows of 256.
///
/// # Errors
/// When the file is no such array or holds anything but finite numbers.
pub fn read_features(path: &Path) -> Result<Array<f32>, ReplayError> {
    let (rows, bytes) = read(path, "float32", &["<f4"], FEATURES, size_of::<f32>())?;
    let mut data = Vec::with_capacity(rows * FEATURES);
    data.extend(
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|&four| f32::from_le_bytes(four)),
    );
    if let Some(at) = data.iter().position(|value| !value.is_finite()) {
        let (row, column) = (at / FEATURES, at % FEATURES);
        let what = format!("row {row}, column {column} is {}: not a feature", data[at]);
        return Err(wrong(path, what));
    }
    Ok(Array {
        rows,
        columns: FEATURES,
        data,
    })
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
            return Err(wrong(path, what));
        }
        if !mask.contains(&1) {
            return Err(wrong(path, format!("row {row} has no legal action")));
        }
    }
    Ok(Array {
        rows,
        columns: ACTIONS,
        data,
    })
}

/// Writes rows of float32, one behind the other in `data`, in place of the file there.
///
/// # Errors
/// When `data` is not `rows * columns` long or the file cannot be written; an older file is then left
/// as it was.
pub fn write_f32(
    path: &Path,
    rows: usize,
    columns: usize,
    data: &[f32],
) -> Result<(), ReplayError> {
    Ok(prepare_f32(path, rows, columns, data)?.put()?)
}

/// As `write_f32`, and leaves it to the caller to put the file in its place.
///
/// # Errors
/// As there.
pub fn prepare_f32(
    path: &Path,
    rows: usize,
    columns: usize,
    data: &[f32],
) -> Result<Replacement, ReplayError> {
    if rows.checked_mul(columns) != Some(data.len()) {
        let what = format!("{} numbers are not {rows} rows of {columns}", data.len());
        return Err(wrong(path, what));
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

fn wrong(path: &Path, what: impl Into<String>) -> ReplayError {
    ReplayError::Array {
        path: path.to_path_buf(),
        what: what.into(),
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
    let mut file = input::open(path).map_err(ReplayError::io("open", path))?;
    let metadata = file.metadata().map_err(ReplayError::io("read", path))?;
    let header = Header::read(&mut file, path)?;
    if !types.contains(&header.dtype.as_str()) {
        let what = format!("type {}, not {name}; save it as {name}", header.dtype);
        return Err(wrong(path, what));
    }
    if header.fortran_order {
        let what = "in Fortran order; save it with numpy.ascontiguousarray";
        return Err(wrong(path, what));
    }
    let rows = match header.shape[..] {
        [rows, row] if row == columns as u64 => rows,
        _ => {
            let what = format!("shape {:?}, not [N, {columns}]", header.shape);
            return Err(wrong(path, what));
        }
    };
    let row_bytes = (columns * width) as u64;
    let held = metadata.len().saturating_sub(header.bytes);
    if rows.checked_mul(row_bytes) != Some(held) {
        let (rows, held) = (counted(rows, "row"), counted(held, "byte"));
        let what = format!("{rows} of {row_bytes} bytes, but {held} after the header");
        return Err(wrong(path, what + ": cut off, or no .npy file"));
    }
    let mut data = Vec::with_capacity(held as usize);
    file.take(held)
        .read_to_end(&mut data)
        .map_err(ReplayError::io("read", path))?;
    if data.len() as u64 != held {
        return Err(wrong(path, "was cut off while it was read"));
    }
    Ok((rows as usize, data))
}

/// What stands before the data.
struct Header {
    dtype: String,
    fortran_order: bool,
    shape: Vec<u64>,
    /// Its own length.
    bytes: u64,
}

impl Header {
    fn read(file: &mut impl Read, path: &Path) -> Result<Header, ReplayError> {
        let mut fill = |buffer: &mut [u8]| {
            file.read_exact(buffer).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => wrong(path, "too short for a .npy file"),
                _ => ReplayError::io("read", path)(error),
            })
        };
        let mut start = [0; 8];
        fill(&mut start)?;
        if start[..6] != *b"\x93NUMPY" {
            return Err(wrong(path, "not a .npy file"));
        }
        let (before, length) = match start[6] {
            1 => {
                let mut length = [0; 2];
                fill(&mut length)?;
                (10, u16::from_le_bytes(length) as usize)
            }
            2 | 3 => {
                let mut length = [0; 4];
                fill(&mut length)?;
                (12, u32::from_le_bytes(length) as usize)
            }
            other => {
                let what = format!("version {other} of the .npy format, not 1 to 3");
                return Err(wrong(path, what));
            }
        };
        if length > MAX_HEADER_BYTES {
            let what = format!("a header of {length} bytes: not a plain array");
            return Err(wrong(path, what));
        }
        let mut text = vec![0; length];
        fill(&mut text)?;
        std::str::from_utf8(&text)
            .ok()
            .and_then(|text| Header::parse(text, (before + length) as u64))
            .ok_or_else(|| wrong(path, "a header that describes no plain array"))
    }

    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 256), }`, in any order of the keys.
    fn parse(text: &str, bytes: u64) -> Option<Header> {
        let (mut dtype, mut fortran_order, mut shape) = (None, None, None);
        let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        while !rest.is_empty() {
            let (key, after) = quoted(rest)?;
            let after = after.trim_start().strip_prefix(':')?.trim_start();
            let after = match key {
                "descr" => {
                    let (value, after) = quoted(after)?;
                    dtype = Some(value.to_string());
                    after
                }
                "fortran_order" => {
                    let value = after.starts_with("True");
                    fortran_order = Some(value);
                    after.strip_prefix(if value { "True" } else { "False" })?
                }
                "shape" => {
                    let (inner, after) = after.strip_prefix('(')?.split_once(')')?;
                    let inner = inner.trim().trim_end_matches(',');
                    let sizes = inner.split(',').map(|size| size.trim().parse().ok());
                    shape = Some(if inner.is_empty() {
                        Vec::new()
                    } else {
                        sizes.collect::<Option<Vec<u64>>>()?
                    });
                    after
                }
                _ => return None,
            };
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if after.is_empty() => after,
                None => return None,
            };
        }
        Some(Header {
            dtype: dtype?,
            fortran_order: fortran_order?,
            shape: shape?,
            bytes,
        })
    }
}

/// A string in single or double quotes, without escapes, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mark = text.chars().next().filter(|mark| "'\"".contains(*mark))?;
    text[1..].split_once(mark)
}
