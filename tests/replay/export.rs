//! Arrays: a worked example, shapes over random tables, and files that are not what they should be.

use crate::made::*;
use crate::records::tables;
use npyz::NpyFile;
use proptest::prelude::*;
use ringmaster::game::*;
use ringmaster::observation::Position;
use ringmaster::replay::*;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::tempdir;

/// Shape and entries, read by npyz.
fn array<T: npyz::Deserialize>(path: PathBuf) -> (Vec<u64>, Vec<T>) {
    let bytes = fs::read(path).unwrap();
    let file = NpyFile::new(&bytes[..]).unwrap();
    let shape = file.shape().to_vec();
    (shape, file.into_vec().unwrap())
}

#[test]
fn a_worked_example() {
    let visits: [&[u32]; 6] = [
        &[6, 6, 12],
        &[0, 24, 0],
        &[18, 3, 3],
        &[6, 18],
        &[12, 12],
        &[24, 0],
    ];
    let (record, before) = by_hand(0, visits);
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    write(dir.path(), &[encode(&record)], 4);
    verify(dir.path()).unwrap();
    let out = out.path().join("new/arrays");
    assert_eq!(
        export(dir.path(), &out).unwrap(),
        Exported { rounds: 1, rows: 6 }
    );

    let (shape, policy) = array::<f32>(out.join("policy.npy"));
    let (mask_shape, mask) = array::<u8>(out.join("mask.npy"));
    assert_eq!((shape, mask_shape), (vec![6, 52], vec![6, 52]));
    let expected: [&[(usize, f32)]; 6] = [
        &[(0, 0.25), (1, 0.25), (2, 0.5)],
        &[(0, 0.0), (1, 1.0), (2, 0.0)],
        &[(0, 0.75), (1, 0.125), (2, 0.125)],
        &[(0, 0.25), (1, 0.75)],
        &[(20, 0.5), (21, 0.5)],
        &[(40, 1.0), (41, 0.0)],
    ];
    for (row, entries) in expected.iter().enumerate() {
        let (mut wanted, mut legal) = ([0.0; 52], [0; 52]);
        for &(action, share) in *entries {
            (wanted[action], legal[action]) = (share, 1);
        }
        assert_eq!(policy[row * 52..][..52], wanted);
        assert_eq!(mask[row * 52..][..52], legal);
    }
    let (shape, value) = array::<f32>(out.join("value.npy"));
    let (mask_shape, seats) = array::<u8>(out.join("seat_mask.npy"));
    assert_eq!((shape, mask_shape), (vec![6, 8], vec![6, 8]));
    let third = 2.0 * 10.0_f32 / 12.0 - 1.0;
    let by_mover = [[1.0, -1.0, third], [-1.0, third, 1.0], [third, 1.0, -1.0]];
    for (row, mover) in [0, 1, 2, 0, 1, 2].into_iter().enumerate() {
        assert_eq!(value[row * 8..][..3], by_mover[mover]);
        assert_eq!(value[row * 8 + 3..][..5], [0.0; 5]);
        assert_eq!(seats[row * 8..][..8], [1, 1, 1, 0, 0, 0, 0, 0]);
    }
    let (shape, features) = array::<f32>(out.join("features.npy"));
    assert_eq!(shape, [6, 256]);
    for (row, state) in before.iter().enumerate() {
        let mut wanted = [0.0; 256];
        Position::observe(state, &Standing::default()).expand(&mut wanted);
        assert_eq!(features[row * 256..][..256], wanted);
    }
    assert_eq!(
        read_features(&out.join("features.npy")).unwrap().data,
        features
    );
    assert_eq!(read_mask(&out.join("mask.npy")).unwrap().data, mask);
    assert_eq!(
        fs::read_dir(&out).unwrap().count(),
        5,
        "no temporary file is left"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_are_whole(tables in prop::collection::vec(tables(), 1..4)) {
        let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
        let records: Vec<RoundRecord> =
            tables.iter().enumerate().map(|(round, &table)| play(round as u64, table)).collect();
        let encoded: Vec<Vec<u8>> = records.iter().map(encode).collect();
        write(dir.path(), &encoded, 2);
        verify(dir.path()).unwrap();
        let exported = export(dir.path(), out.path()).unwrap();
        let rows: usize = records.iter().map(RoundRecord::targets).sum();
        prop_assert_eq!(exported, Exported { rounds: records.len() as u64, rows: rows as u64 });
        let features = read_features(&out.path().join("features.npy")).unwrap();
        let mask = read_mask(&out.path().join("mask.npy")).unwrap();
        let (shape, policy) = array::<f32>(out.path().join("policy.npy"));
        prop_assert_eq!((features.rows, mask.rows, shape), (rows, rows, vec![rows as u64, 52]));
        for (policy, mask) in policy.chunks(52).zip(mask.data.chunks(52)) {
            prop_assert!((policy.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            let mut shares = policy.iter().zip(mask);
            prop_assert!(shares.all(|(&share, &legal)| share == 0.0 || legal == 1));
        }
        let (_, value) = array::<f32>(out.path().join("value.npy"));
        prop_assert!(value.iter().all(|value| (-1.0..=1.0).contains(value)));
    }

    /// Any bytes in the header: an error or an array, never a panic.
    #[test]
    fn hostile_headers_do_no_harm(at in 0..128_usize, byte in any::<u8>(), noise in "\\PC{0,60}") {
        let dir = tempdir().unwrap();
        let path = dir.path().join("f.npy");
        write_rows(&path, 1, 256, &[0.5; 256]);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = byte;
        fs::write(&path, &bytes).unwrap();
        let _ = read_features(&path);
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {noise}}}");
        fs::write(&path, npy(&header, &[])).unwrap();
        let _ = read_features(&path);
    }
}

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

#[test]
fn the_wrong_array_is_refused() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("f.npy");
    let refused = |bytes: Vec<u8>, what: &str| {
        fs::write(&path, bytes).unwrap();
        let error = read_features(&path).unwrap_err().to_string();
        assert!(error.contains("f.npy: ") && error.contains(what), "{error}");
        assert!(!error.contains('\n'), "{error}");
    };
    let header = |dtype: &str, order: &str, shape: &str| {
        let text = format!("{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
        npy(&text, &[0; 1024])
    };
    refused(Vec::new(), "too short for its header");
    refused(b"a picture, not an array".to_vec(), "no .npy file");
    let plain = header("'<f4'", "False", "(1, 256)");
    refused(plain[..60].to_vec(), "too short for its header");
    for version in [0, 4, 7] {
        let mut other = plain.clone();
        other[6] = version;
        let what = format!("version {version} of the .npy format, not 1 to 3; write one with");
        refused(other, &what);
    }
    let cut_behind = |length: &[u8]| [b"\x93NUMPY\x02\x00", length].concat();
    refused(cut_behind(b"\x76\x00"), "too short for its header");
    refused(cut_behind(b"\x76\x00\x00\x00"), "too short for its header");
    for broken in [
        npy("{}\n", &[0; 1024]),
        header("[('a', '<f4')]", "False", "(1, 256)"),
        header("'<f4'", "False", "(18446744073709551615, 256)"),
        header("'<f4'", "False", "(0xffffffffffff, 0xffffff)"),
        header("'<f4'", "False", &"(".repeat(2000)),
        header("'<f4'", "False", "(99999999999999999999, 256)"),
        npy(&" ".repeat(5000), &[0; 1024]),
        cut_behind(b"\xff\xff\xff\xff"),
    ] {
        refused(broken, "its header describes no plain array");
    }
    for (dtype, order, shape, what) in [
        ("'<f8'", "False", "(1, 256)", "type <f8, not float32"),
        ("'>f4'", "False", "(1, 256)", "type >f4"),
        ("'<f4'", "True", "(1, 256)", "Fortran"),
        ("'<f4'", "False", "(256,)", "shape [256], not [N, 256]"),
        ("'<f4'", "False", "()", "shape [], not"),
        ("'<f4'", "False", "(1, 255)", "shape [1, 255]"),
        (
            "'<f4'",
            "False",
            "(2, 256)",
            "2 rows of 1024 bytes, but 1024",
        ),
        (
            "'<f4'",
            "False",
            "(0, 256)",
            "but 1024 bytes after the header",
        ),
        ("'<f4'", "False", "(999999999999999, 256)", "rows of 1024"),
    ] {
        refused(header(dtype, order, shape), what);
    }
    let mut nan = header("'<f4'", "False", "(1, 256)");
    let last = nan.len() - 4;
    nan[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(nan, "row 0, column 255 is NaN");
    assert!(prepare_f32(&path, 2, 2, &[0.0; 3]).is_err());

    let mask = |data: [u8; 52]| {
        let text = "{'descr': '|b1', 'fortran_order': False, 'shape': (1, 52), }\n";
        fs::write(&path, npy(text, &data)).unwrap();
        read_mask(&path)
    };
    assert_eq!(mask([1; 52]).unwrap().rows, 1);
    assert!(
        mask([2; 52])
            .unwrap_err()
            .to_string()
            .contains("row 0 holds 2")
    );
    assert!(
        mask([0; 52])
            .unwrap_err()
            .to_string()
            .contains("no legal action")
    );
    assert!(read_mask(dir.path()).is_err() && read_mask(Path::new("absent.npy")).is_err());
}

#[test]
fn a_damaged_replay_leaves_no_arrays() {
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    let mut record = play(0, Deal::small(1));
    record.actions[0] = 40;
    let mut writer = create(dir.path(), &manifest(3, 2));
    push(&mut writer, &encode(&record)).unwrap();
    push(&mut writer, &rounds(2)[1]).unwrap();
    writer.close().unwrap();
    let error = export(dir.path(), out.path()).unwrap_err().to_string();
    assert!(
        error.contains("rounds-000000.shard") && error.contains("not legal"),
        "{error}"
    );
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}
