//! Weights files that are read back as they were, and those that are refused, each with its own
//! reason.

use super::super::ShapeError;
use super::*;
use std::fs::File;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn small() -> Weights {
    Weights::seeded(5, Shape::new(8, 2, 12).expect("in range"))
}

fn tensors() -> Tensors {
    let bytes = small().serialize().expect("serializes");
    let parsed = SafeTensors::deserialize(&bytes).expect("parses");
    parsed
        .iter()
        .map(|(name, view)| {
            (
                name.into(),
                (view.dtype(), view.shape().into(), view.data().into()),
            )
        })
        .collect()
}

fn bytes_of(tensors: &Tensors) -> Vec<u8> {
    let view = |(dtype, dims, data): &'_ (Dtype, Vec<usize>, Vec<u8>)| {
        (*dtype, dims.clone(), data.clone())
    };
    let owned: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (name, view(tensor)))
        .collect();
    let views = owned.iter().map(|(name, (dtype, dims, data))| {
        (
            name.as_str(),
            TensorView::new(*dtype, dims.clone(), data).expect("consistent"),
        )
    });
    safetensors::serialize(views, None).expect("serializes")
}

fn refusal(tensors: &Tensors) -> WeightsError {
    let error =
        Weights::parse(&bytes_of(tensors), Path::new("net.safetensors")).expect_err("refused");
    let line = error.to_string();
    assert!(
        line.starts_with("net.safetensors: ") && !line.contains('\n'),
        "{line}"
    );
    error
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("net.safetensors");
    let weights = small();
    weights.save(&path).expect("saves");
    assert_eq!(Weights::load(&path).expect("loads"), weights);
    weights.save(&path).expect("saves over itself");
    let names = std::fs::read_dir(folder.path()).expect("lists").count();
    assert_eq!(names, 1, "no temporary file is left");
    assert!(matches!(
        weights.save(&folder.path().join("no/net")),
        Err(WeightsError::Write { .. })
    ));
    assert!(matches!(
        Weights::load(&folder.path().join("none")),
        Err(WeightsError::Read { .. })
    ));
}

#[test]
fn a_folder_means_its_newest_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let load = || Weights::load(folder.path());
    assert!(matches!(load(), Err(WeightsError::Empty { .. })));
    let (one, two) = (small(), Weights::seeded(9, small().shape()));
    one.save(&folder.path().join("b.safetensors"))
        .expect("saves");
    std::fs::write(folder.path().join("c.tmp"), "not yet").expect("writes");
    assert_eq!(load().expect("loads"), one);
    let newer = folder.path().join("a.safetensors");
    two.save(&newer).expect("saves");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let file = File::options().write(true).open(&newer).expect("opens");
    file.set_modified(later).expect("sets its time");
    assert_eq!(load().expect("loads"), two);
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
        let weights = Weights::parse(&bytes_of(&tensors), Path::new("net")).expect("loads");
        for (read, saved) in weights.all().iter().zip(small().all()) {
            assert_eq!((&read.name, read.stored), (&saved.name, stored));
            for (read, saved) in read.data.iter().zip(&saved.data) {
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
    for (dtype, bytes) in [
        (BOOL, 1),
        (U8, 1),
        (I8, 1),
        (F8_E5M2, 1),
        (F8_E4M3, 1),
        (F8_E8M0, 1),
        (F8_E4M3FNUZ, 1),
        (F8_E5M2FNUZ, 1),
        (I16, 2),
        (U16, 2),
        (I32, 4),
        (U32, 4),
        (C64, 8),
        (I64, 8),
        (U64, 8),
    ] {
        let mut tensors = tensors();
        let name = "policy_fc.3.bias";
        tensors.insert(name.into(), (dtype, vec![52], vec![0; 52 * bytes]));
        match refusal(&tensors) {
            WeightsError::Dtype { tensor, found, .. } => {
                assert_eq!((tensor.as_str(), found), (name, format!("{dtype:?}")));
            }
            other => panic!("{dtype:?}: {other}"),
        }
    }
    let mut large = stored_as(Dtype::F64, |value| f64::from(value).to_le_bytes());
    if let Some((_, _, data)) = large.get_mut("input_norm.bias") {
        data[8..16].copy_from_slice(&1e300f64.to_le_bytes());
    }
    let error = refusal(&large);
    assert!(matches!(error, WeightsError::NotFinite { index: 1, .. }));
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
        let weights = Weights::parse(&bytes_of(&wrapped(prefix)), Path::new("net")).expect("loads");
        assert_eq!((weights.prefix(), weights.hash()), (prefix, small().hash()));
    }
    let mut mixed = wrapped("module.");
    mixed.insert("step".into(), (Dtype::F32, vec![1], vec![0; 4]));
    let error = refusal(&mixed);
    assert!(matches!(error, WeightsError::Unknown { tensor, .. } if tensor == "step"));
    let mut twice = wrapped("module.");
    twice.extend(tensors());
    assert!(matches!(refusal(&twice), WeightsError::Unknown { .. }));
    // Of another wrapper it is said what stands there.
    let error = refusal(&wrapped("net."));
    assert!(
        matches!(&error, WeightsError::Wrapped { found, .. } if found.starts_with("net.")),
        "{error}"
    );
}

#[test]
fn a_folder_holds_what_is_whole_by_its_name_and_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&at("pipe.safetensors"), mode).expect("a pipe");
    std::fs::create_dir(at("folder.safetensors")).expect("a folder");
    std::os::unix::fs::symlink(at("gone"), at("link.safetensors")).expect("a link");
    std::fs::write(at(".2.tmp.safetensors"), "not yet").expect("writes");
    assert!(matches!(
        Weights::load(folder.path()),
        Err(WeightsError::Empty { .. })
    ));
    small().save(&at("kept")).expect("saves");
    std::os::unix::fs::symlink(at("kept"), at("latest.safetensors")).expect("a link");
    assert_eq!(
        weights_file(folder.path()).expect("there"),
        at("latest.safetensors")
    );
    assert_eq!(Weights::load(folder.path()).expect("loads"), small());
    let pipe = Weights::load(&at("pipe.safetensors")).expect_err("refused");
    assert!(
        pipe.to_string()
            .ends_with("it is a pipe, not a regular file; name another file"),
        "{pipe}"
    );
}

#[test]
fn each_fault_is_its_own_error() {
    let change = |edit: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors();
        edit(&mut tensors);
        refusal(&tensors)
    };
    let missing = change(&|t| drop(t.remove("policy_fc.0.bias")));
    assert!(
        matches!(missing, WeightsError::Missing { tensor, .. } if tensor == "policy_fc.0.bias")
    );
    let unknown =
        change(&|t| drop(t.insert("optimizer.step".into(), (Dtype::F32, vec![1], vec![0; 4]))));
    assert!(matches!(unknown, WeightsError::Unknown { tensor, .. } if tensor == "optimizer.step"));
    let far = "transformer.layers.99999999999.linear1.bias";
    let deep = change(&|t| drop(t.insert(far.into(), (Dtype::F32, vec![1], vec![0; 4]))));
    assert!(matches!(
        deep,
        WeightsError::Shape {
            source: ShapeError::Depth(_),
            ..
        }
    ));
    let shape = change(&|t| {
        drop(t.insert(
            "policy_fc.3.bias".into(),
            (Dtype::F32, vec![51], vec![0; 204]),
        ))
    });
    assert!(matches!(shape, WeightsError::Dimensions { found, .. } if found == [51]));
    let nan = change(&|t| {
        if let Some((_, _, data)) = t.get_mut("input_norm.bias") {
            data[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    });
    assert!(matches!(nan, WeightsError::NotFinite { index: 3, .. }));
    let scalar = change(&|t| {
        t.insert(
            "value_fc.3.weight".into(),
            (Dtype::F32, vec![1, 4], vec![0; 16]),
        );
        t.insert("value_fc.3.bias".into(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    assert!(matches!(scalar, WeightsError::ScalarValueHead { .. }));
    assert!(
        scalar.to_string().contains("one entry per seat"),
        "{scalar}"
    );
    let embedding = vec![3, 256];
    let odd = change(&|t| {
        t.insert(
            "input_embedding.weight".into(),
            (Dtype::F32, embedding.clone(), vec![0; 3 * 1024]),
        );
    });
    assert!(matches!(
        odd,
        WeightsError::Shape {
            source: ShapeError::Width(3),
            ..
        }
    ));
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let whole = small().serialize().expect("serializes");
    for length in [0, 7, 8, 100, whole.len() - 1] {
        let error = Weights::parse(&whole[..length], Path::new("net"));
        assert!(
            matches!(error, Err(WeightsError::Format { .. })),
            "{length}"
        );
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(matches!(
        Weights::parse(&longer, Path::new("net")),
        Err(WeightsError::Format { .. })
    ));
    let zip = b"PK\x03\x04 a torch.save archive, long enough to hold a header length";
    assert!(matches!(
        Weights::parse(zip, Path::new("net.pt")),
        Err(WeightsError::Format { .. })
    ));
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend_from_slice(&whole[8..]);
    assert!(matches!(
        Weights::parse(&huge, Path::new("net")),
        Err(WeightsError::Format { .. })
    ));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sparse");
    File::create(&path)
        .and_then(|file| file.set_len(FILE_BYTES_MAX + 1))
        .expect("a sparse file");
    assert!(matches!(
        Weights::load(&path),
        Err(WeightsError::TooLarge { .. })
    ));
}
