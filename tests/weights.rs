//! Weights files that are read back as they were, and those that are refused, each with its own
//! reason.
#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use ringmaster::network::{Precision, Shape, Weights, WeightsError, weights_file};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn small() -> Weights {
    Weights::seeded(5, Shape::new(8, 2, 12).unwrap())
}

/// The bytes of `small`'s file.
fn saved() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net");
    small().save(&file).unwrap();
    fs::read(file).unwrap()
}

fn tensors() -> Tensors {
    let bytes = saved();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |view: TensorView| (view.dtype(), view.shape().into(), view.data().into());
    parsed
        .iter()
        .map(|(name, view)| (name.into(), owned(view)))
        .collect()
}

fn bytes_of(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, dims, data))| {
        let view = TensorView::new(*dtype, dims.clone(), data).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// The one line that refuses a file of these tensors.
fn refusal(tensors: &Tensors) -> String {
    let error = Weights::parse(&bytes_of(tensors), Path::new("net.safetensors")).unwrap_err();
    let line = error.to_string();
    assert!(
        line.starts_with("net.safetensors: ") && line.contains("; ") && !line.contains('\n'),
        "{line}"
    );
    line
}

#[track_caller]
fn assert_refused(tensors: &Tensors, said: &str) {
    let line = refusal(tensors);
    assert!(line.contains(said), "{line}");
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let weights = small();
    weights.save(&path).unwrap();
    assert_eq!(Weights::load(&path).unwrap(), weights);
    weights.save(&path).unwrap();
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "no temporary file is left");
    assert!(matches!(
        weights.save(&folder.path().join("no/net")),
        Err(WeightsError::Write { .. })
    ));
    assert!(matches!(
        Weights::load(&folder.path().join("none")),
        Err(WeightsError::NotFound(_))
    ));
}

fn no_file_in(folder: &Path) {
    let error = Weights::load(folder).unwrap_err().to_string();
    assert!(
        error.contains(": no .safetensors file in this folder; name a file"),
        "{error}"
    );
}

#[test]
fn a_folder_means_its_newest_file() {
    let folder = tempfile::tempdir().unwrap();
    no_file_in(folder.path());
    let load = || Weights::load(folder.path()).unwrap();
    let (one, two) = (small(), Weights::seeded(9, small().shape()));
    one.save(&folder.path().join("b.safetensors")).unwrap();
    fs::write(folder.path().join("c.tmp"), "not yet").unwrap();
    assert_eq!(load(), one);
    let newer = folder.path().join("a.safetensors");
    two.save(&newer).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let file = File::options().write(true).open(&newer).unwrap();
    file.set_modified(later).unwrap();
    assert_eq!(load(), two);
}

#[test]
fn a_folder_holds_what_is_whole_by_its_name_and_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&at("pipe.safetensors"), mode).unwrap();
    fs::create_dir(at("folder.safetensors")).unwrap();
    std::os::unix::fs::symlink(at("gone"), at("link.safetensors")).unwrap();
    fs::write(at(".2.tmp.safetensors"), "not yet").unwrap();
    no_file_in(folder.path());
    small().save(&at("kept")).unwrap();
    std::os::unix::fs::symlink(at("kept"), at("latest.safetensors")).unwrap();
    assert_eq!(
        weights_file(folder.path()).unwrap(),
        at("latest.safetensors")
    );
    assert_eq!(Weights::load(folder.path()).unwrap(), small());
    let pipe = Weights::load(&at("pipe.safetensors")).unwrap_err();
    assert!(
        pipe.to_string()
            .ends_with("it is a pipe, not a regular file; name another file"),
        "{pipe}"
    );
}

/// All tensors stored as `dtype`: each value's bytes by `convert`.
fn stored_as<const N: usize>(dtype: Dtype, convert: impl Fn(f32) -> [u8; N]) -> Tensors {
    let mut tensors = tensors();
    for (stored, _, data) in tensors.values_mut() {
        *stored = dtype;
        let (values, _) = data.as_chunks::<4>();
        *data = values
            .iter()
            .flat_map(|bytes| convert(f32::from_le_bytes(*bytes)))
            .collect();
    }
    tensors
}

#[test]
fn floats_of_every_common_size_are_read_and_told() {
    let f64s = stored_as(Dtype::F64, |value| f64::from(value).to_le_bytes());
    let f32s = stored_as(Dtype::F32, f32::to_le_bytes);
    let f16s = stored_as(Dtype::F16, |value| f16::from_f32(value).to_le_bytes());
    let bf16s = stored_as(Dtype::BF16, |value| bf16::from_f32(value).to_le_bytes());
    for (tensors, stored, error) in [
        (f64s, Precision::F64, 0.0),
        (f32s, Precision::F32, 0.0),
        (f16s, Precision::F16, 1.0 / 2048.0),
        (bf16s, Precision::Bf16, 1.0 / 256.0),
    ] {
        let weights = Weights::parse(&bytes_of(&tensors), Path::new("net")).unwrap();
        for tensor in weights.describe().tensors {
            assert_eq!(tensor.stored, stored, "{}", tensor.name);
            let (read, saved) = (weights.tensor(&tensor.name), small());
            for (read, saved) in read.iter().zip(saved.tensor(&tensor.name)) {
                // The smallest f16 are all the same distance from each other.
                let most = saved.abs() * error + error / 8192.0;
                assert!((read - saved).abs() <= most, "{stored}: {read} {saved}");
            }
        }
    }
}

#[test]
fn all_other_types_are_refused_by_name() {
    use Dtype::*;
    for (bytes, dtypes) in [
        (
            1,
            &[
                BOOL,
                U8,
                I8,
                F8_E5M2,
                F8_E4M3,
                F8_E8M0,
                F8_E4M3FNUZ,
                F8_E5M2FNUZ,
            ][..],
        ),
        (2, &[I16, U16]),
        (4, &[I32, U32]),
        (8, &[C64, I64, U64]),
    ] {
        for &dtype in dtypes {
            let mut tensors = tensors();
            let bias = (dtype, vec![52], vec![0; 52 * bytes]);
            tensors.insert("policy_fc.3.bias".into(), bias);
            let said = format!("tensor `policy_fc.3.bias` is stored as {dtype:?}, expected F32,");
            assert_refused(&tensors, &said);
        }
    }
    let mut large = stored_as(Dtype::F64, |value| f64::from(value).to_le_bytes());
    let (_, _, data) = large.get_mut("input_norm.bias").unwrap();
    data[8..16].copy_from_slice(&1e300f64.to_le_bytes());
    assert_refused(&large, "tensor `input_norm.bias` holds inf at index 1,");
}

#[test]
fn what_wrappers_put_before_the_names_is_left_out() {
    let wrapped = |prefix: &str| -> Tensors {
        let named = |(name, tensor)| (format!("{prefix}{name}"), tensor);
        tensors().into_iter().map(named).collect()
    };
    for prefix in [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "module._orig_mod.",
        "model.module.model.",
    ] {
        let weights = Weights::parse(&bytes_of(&wrapped(prefix)), Path::new("net")).unwrap();
        assert_eq!((weights.prefix(), weights.hash()), (prefix, small().hash()));
    }
    let mut mixed = wrapped("module.");
    mixed.insert("step".into(), (Dtype::F32, vec![1], vec![0; 4]));
    assert_refused(&mixed, "tensor `step` is not part of a BlobNet");
    let mut twice = wrapped("module.");
    twice.extend(tensors());
    assert_refused(&twice, "is not part of a BlobNet");
    // Of another wrapper it is said what stands there.
    assert_refused(&wrapped("net."), "is missing, but there is `net.");
}

#[test]
fn each_fault_is_named() {
    let zeros = |dims: &[usize]| {
        let bytes = dims.iter().product::<usize>() * 4;
        (Dtype::F32, dims.to_vec(), vec![0; bytes])
    };
    let far = "transformer.layers.99999999999.linear1.bias";
    for (replaced, said) in [
        (
            &[("optimizer.step", &[1][..])][..],
            "tensor `optimizer.step` is not part of a BlobNet",
        ),
        (&[(far, &[1])], "depth 100000000000 is not from 1 to"),
        (
            &[("policy_fc.3.bias", &[51])],
            "tensor `policy_fc.3.bias` has shape [51], expected [52]",
        ),
        (
            &[("value_fc.3.weight", &[1, 4]), ("value_fc.3.bias", &[1])],
            "a scalar value head; the value is a vector here, one entry per seat",
        ),
        (
            &[("input_embedding.weight", &[3, 256])],
            "width 3 is not an even number",
        ),
    ] {
        let mut tensors = tensors();
        for (name, dims) in replaced {
            tensors.insert((*name).into(), zeros(dims));
        }
        assert_refused(&tensors, said);
    }
    let mut missing = tensors();
    missing.remove("policy_fc.0.bias");
    assert_refused(&missing, "tensor `policy_fc.0.bias` is missing;");
    let mut nan = tensors();
    let (_, _, data) = nan.get_mut("input_norm.bias").unwrap();
    data[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_refused(&nan, "tensor `input_norm.bias` holds NaN at index 3,");
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let whole = saved();
    let mut longer = whole.clone();
    longer.push(0);
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend_from_slice(&whole[8..]);
    let zip = b"PK\x03\x04 a torch.save archive, long enough to hold a header length";
    let cut = [0, 7, 8, 100, whole.len() - 1].map(|length| &whole[..length]);
    for bytes in cut.into_iter().chain([&longer, &huge, &zip[..]]) {
        let error = Weights::parse(bytes, Path::new("net"))
            .unwrap_err()
            .to_string();
        let length = bytes.len();
        assert!(
            error.starts_with("net: not a whole safetensors file ("),
            "{length}: {error}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    let sparse = File::create(&path).unwrap();
    sparse.set_len((1 << 30) + (1 << 20) + 1).unwrap();
    let error = Weights::load(&path).unwrap_err().to_string();
    assert!(
        error.contains("too large for BlobNet weights; is it the right file?"),
        "{error}"
    );
}
