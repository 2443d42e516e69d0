use super::*;
use crate::network::Shape;
use crate::network::cuda::packing::Operands;

const H200: Gpu = Gpu {
    major: 9,
    minor: 0,
    multiprocessors: 132,
    shared_bytes_per_block: 232_448,
};
const RTX_4060: Gpu = Gpu {
    major: 8,
    minor: 9,
    multiprocessors: 24,
    shared_bytes_per_block: 101_376,
};

fn layout() -> Layout {
    Layout::new(Shape::default(), Operands::F16).unwrap()
}

fn plan(gpu: Gpu) -> Plan {
    Plan::new(gpu, layout()).unwrap()
}

#[test]
fn every_entry_fits_the_gpus_it_is_for() {
    for (family, gpu) in [(Family::Cluster, H200), (Family::Block, RTX_4060)] {
        for entry in family.entries() {
            assert!(
                entry.shared_bytes <= gpu.shared_bytes_per_block,
                "{entry:?}"
            );
        }
    }
    assert_eq!(plan(H200).entries().count(), 4);
    assert_eq!(plan(RTX_4060).entries().count(), 2);
}

#[test]
fn a_batch_is_covered_and_spread_over_the_whole_gpu() {
    for (rows, name, grid) in [
        (1, "blobnet_cluster_16", 8),
        (16, "blobnet_cluster_16", 8),
        (17, "blobnet_cluster_16", 16),
        (256, "blobnet_cluster_16", 128),
        (257, "blobnet_cluster_32", 72),
        (512, "blobnet_cluster_32", 128),
        (1024, "blobnet_cluster_64", 128),
        (2048, "blobnet_cluster_64", 256),
    ] {
        let launch = plan(H200).launch(rows);
        assert_eq!(
            (launch.entry.name, launch.grid_blocks),
            (name, grid),
            "{rows}"
        );
    }
    let launch = plan(RTX_4060).launch(384);
    assert_eq!((launch.entry.rows, launch.grid_blocks), (16, 24));
    for gpu in [H200, RTX_4060] {
        for rows in 1..3000 {
            let launch = plan(gpu).launch(rows);
            let tiles = launch.grid_blocks / launch.entry.cluster;
            assert_eq!(launch.grid_blocks % launch.entry.cluster, 0);
            assert!(tiles * launch.entry.rows >= rows);
            assert!((tiles - 1) * launch.entry.rows < rows);
        }
    }
}

#[test]
fn fewer_clusters_than_counted_change_the_choice() {
    let mut plan = plan(H200);
    assert_eq!(plan.rows_at_once(), 16 * 80);
    for entry in Family::Cluster.entries() {
        plan.set_resident_clusters(entry, 14);
    }
    assert_eq!(plan.launch(256).entry.rows, 32);
    assert_eq!(plan.launch(1024).entry.rows, 80);
    assert_eq!(plan.rows_at_once(), 14 * 80);
}

/// Measured as if a wave took what was counted, and `share` of it whatever its size.
fn measured(gpu: Gpu, share: f64) -> Plan {
    let mut plan = plan(gpu);
    for entry in plan.entries().collect::<Vec<_>>() {
        let wave = plan.sizes(&entry, usize::MAX / 2).pop().unwrap();
        let time = |rows: usize| {
            f64::from(entry.cost) * (share + (1.0 - share) * rows as f64 / wave as f64)
        };
        let points = plan
            .sizes(&entry, 8192)
            .into_iter()
            .map(|rows| (rows, 1e-6 * time(rows)));
        let cost = CostModel::from_points(points);
        plan.set_cost(&entry, cost);
    }
    plan
}

#[test]
fn measured_times_choose_as_the_counted_ones_where_they_agree() {
    for gpu in [H200, RTX_4060] {
        let (counted, measured) = (plan(gpu), measured(gpu, 1.0));
        for rows in 1..8192 {
            assert_eq!(counted.launch(rows), measured.launch(rows), "{rows} rows");
        }
    }
}

#[test]
fn measured_times_change_the_choice() {
    // Where few clusters are quicker than many, larger tiles on fewer of them may win.
    let plan = measured(H200, 0.3);
    assert_eq!(plan.launch(16).entry.name, "blobnet_cluster_16");
    assert_eq!(plan.launch(256).entry.name, "blobnet_cluster_64");
    let cost = plan.cost(1000);
    let micros = |rows| cost.time(rows).as_secs_f64() * 1e6;
    assert!(
        (micros(16) - 27.0 * (0.3 + 0.7 / 16.0)).abs() < 1e-3,
        "{}",
        micros(16)
    );
    assert!(micros(1000) > micros(500) && micros(500) > micros(16));
    let model = measured(RTX_4060, 1.0).cost(2000);
    // 24 blocks of 32 rows at once: a third wave from 1537 rows on.
    assert!(model.time(1536) < model.time(1552), "{model:?}");
}

#[test]
fn sizes_to_measure_end_with_a_wave_or_the_largest_batch() {
    let plan = plan(H200);
    let cluster = Family::Cluster.entries()[2];
    assert_eq!(plan.sizes(&cluster, 8192), [64, 128, 256, 512, 1024]);
    assert_eq!(plan.sizes(&cluster, 300), [64, 128, 256, 320]);
    assert_eq!(plan.sizes(&cluster, 64), [64]);
    assert_eq!(plan.sizes(&cluster, 1), [64]);
}

#[test]
fn small_shared_memory_takes_the_smaller_tile_or_nothing() {
    let mut gpu = RTX_4060;
    gpu.shared_bytes_per_block = 101_000;
    assert_eq!(plan(gpu).entries().count(), 1);
    gpu.shared_bytes_per_block = 65_536;
    assert!(matches!(
        Plan::new(gpu, layout()),
        Err(PlanError::SharedMemory { .. })
    ));
    // Blackwell's desktop chips have clusters, but not the shared memory for these tiles.
    gpu = RTX_4060;
    gpu.major = 12;
    assert_eq!(plan(gpu).entries().next(), Some(Family::Block.entries()[0]));
}

#[test]
fn old_gpus_are_refused_with_the_remedy() {
    let mut gpu = RTX_4060;
    (gpu.major, gpu.minor) = (7, 5);
    let error = Plan::new(gpu, layout()).unwrap_err();
    assert!(error.to_string().contains("--backend cpu"), "{error}");
}

#[test]
fn options_name_architecture_shape_and_shared_memory() {
    let options = plan(H200).nvrtc_options();
    for expected in [
        "--gpu-architecture=sm_90",
        "--fmad=false",
        "-DBLOBNET_CLUSTER",
        "-DBLOBNET_DEPTH=6",
        "-DBLOBNET_FFN_UNITS=1",
    ] {
        assert!(
            options.iter().any(|option| option == expected),
            "{expected}"
        );
    }
    let options = plan(RTX_4060).nvrtc_options();
    assert!(options.contains(&"-DBLOBNET_SHARED_BLOCK_32=101376".to_owned()));
}
