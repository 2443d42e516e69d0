//! What is loaded and launched on a GPU, and how the weights are packed for it, as plain numbers.
#![allow(clippy::unwrap_used)]

use ringmaster::network::cuda::kernels::KernelFamily;
use ringmaster::network::cuda::packing::{OperandType, WeightLayout, pack};
use ringmaster::network::cuda::plan::{Gpu, LaunchPlan};
use ringmaster::network::{CostModel, Folded, Linear, Shape, Weights};

fn h200() -> Gpu {
    Gpu {
        major: 9,
        minor: 0,
        multiprocessors: 132,
        shared_bytes_per_block: 232_448,
        ..Gpu::default()
    }
}

fn rtx_4060() -> Gpu {
    Gpu {
        major: 8,
        minor: 9,
        multiprocessors: 24,
        shared_bytes_per_block: 101_376,
        ..Gpu::default()
    }
}

fn layout() -> WeightLayout {
    WeightLayout::new(Shape::default(), OperandType::F16).unwrap()
}

fn plan(gpu: &Gpu) -> LaunchPlan {
    LaunchPlan::new(gpu, layout()).unwrap()
}

#[test]
fn every_entry_fits_the_gpus_it_is_for() {
    for (family, gpu) in [
        (KernelFamily::Cluster, h200()),
        (KernelFamily::Block, rtx_4060()),
    ] {
        for entry in family.entries() {
            assert!(
                entry.shared_bytes <= gpu.shared_bytes_per_block,
                "{entry:?}"
            );
        }
    }
    assert_eq!(plan(&h200()).entries().count(), 3);
    assert_eq!(plan(&rtx_4060()).entries().count(), 2);
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
        let launch = plan(&h200()).launch(rows);
        assert_eq!(
            (launch.entry.name, launch.grid_blocks),
            (name, grid),
            "{rows}"
        );
    }
    let launch = plan(&rtx_4060()).launch(384);
    assert_eq!((launch.entry.rows, launch.grid_blocks), (16, 24));
    for gpu in [h200(), rtx_4060()] {
        for rows in 1..3000 {
            let launch = plan(&gpu).launch(rows);
            let tiles = launch.grid_blocks / launch.entry.cluster;
            assert_eq!(launch.grid_blocks % launch.entry.cluster, 0);
            assert!(tiles * launch.entry.rows >= rows);
            assert!((tiles - 1) * launch.entry.rows < rows);
        }
    }
}

#[test]
fn fewer_clusters_than_counted_change_the_choice() {
    let mut plan = plan(&h200());
    assert_eq!(plan.rows_at_once(), 16 * 64);
    for entry in KernelFamily::Cluster.entries() {
        plan.set_resident_clusters(entry, 14);
    }
    assert_eq!(plan.launch(256).entry.rows, 32);
    assert_eq!(plan.launch(1024).entry.rows, 64);
    assert_eq!(plan.rows_at_once(), 14 * 64);
}

/// Measured as if a wave took what was counted, and `share` of it whatever its size.
fn measured(gpu: &Gpu, share: f64) -> LaunchPlan {
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
    for gpu in [h200(), rtx_4060()] {
        let (counted, measured) = (plan(&gpu), measured(&gpu, 1.0));
        for rows in 1..8192 {
            assert_eq!(counted.launch(rows), measured.launch(rows), "{rows} rows");
        }
    }
}

#[test]
fn measured_times_change_the_choice() {
    // Where few clusters are quicker than many, larger tiles on fewer of them may win.
    let plan = measured(&h200(), 0.3);
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
    let model = measured(&rtx_4060(), 1.0).cost(2000);
    // 24 blocks of 32 rows at once: a third wave from 1537 rows on.
    assert!(model.time(1536) < model.time(1552), "{model:?}");
}

#[test]
fn sizes_to_measure_end_with_a_wave_or_the_largest_batch() {
    let plan = plan(&h200());
    let cluster = KernelFamily::Cluster.entries()[2];
    assert_eq!(plan.sizes(&cluster, 8192), [64, 128, 256, 512, 1024]);
    assert_eq!(plan.sizes(&cluster, 300), [64, 128, 256, 320]);
    assert_eq!(plan.sizes(&cluster, 64), [64]);
    assert_eq!(plan.sizes(&cluster, 1), [64]);
}

#[test]
fn small_shared_memory_takes_the_smaller_tile_or_nothing() {
    let mut gpu = rtx_4060();
    gpu.shared_bytes_per_block = 101_000;
    assert_eq!(plan(&gpu).entries().count(), 1);
    gpu.shared_bytes_per_block = 65_536;
    let error = LaunchPlan::new(&gpu, layout()).unwrap_err().to_string();
    assert!(error.contains("65536 bytes of shared memory"), "{error}");
    // Blackwell's desktop chips have clusters, but not the shared memory for these tiles.
    gpu = rtx_4060();
    gpu.major = 12;
    assert_eq!(
        plan(&gpu).entries().next(),
        Some(KernelFamily::Block.entries()[0])
    );
}

#[test]
fn old_gpus_are_refused_with_the_remedy() {
    let mut gpu = rtx_4060();
    (gpu.major, gpu.minor) = (7, 5);
    let error = LaunchPlan::new(&gpu, layout()).unwrap_err();
    assert!(error.to_string().contains("--backend cpu"), "{error}");
}

#[test]
fn default_shape_packs_to_its_weights_and_little_more() {
    let folded = Folded::new(&Weights::seeded(1, Shape::default()));
    let layout = WeightLayout::of(&folded).unwrap();
    assert_eq!(layout.operands(), OperandType::F16);
    let packed = pack(&folded, layout.operands()).unwrap();
    assert_eq!(packed.len(), layout.bytes());
    let exact = 2 * folded.multiply_adds();
    assert!((exact..exact * 107 / 100).contains(&packed.len()));
}

#[test]
fn every_weight_is_packed_once() {
    for (width, ffn) in [(256, 2048), (256, 1152), (128, 128), (128, 1024)] {
        check_packed_once(width, ffn);
    }
}

fn check_packed_once(width: usize, ffn: usize) {
    let shape = Shape::new(width, 1, ffn).unwrap();
    let mut folded = Folded::new(&Weights::seeded(2, shape));
    // Everything but one matrix is zero; mix gets its identity taken off again.
    let clear = |linear: &mut Linear| linear.weight.fill(0.0);
    let mark = |linear: &mut Linear| linear.weight.fill(1.0);
    type Pick = fn(&mut Folded) -> &mut Linear;
    let picks: [Pick; 7] = [
        |f| &mut f.embed,
        |f| &mut f.layers[0].expand,
        |f| &mut f.layers[0].contract,
        |f| &mut f.policy_hidden,
        |f| &mut f.policy_out,
        |f| &mut f.value_hidden,
        |f| &mut f.value_out,
    ];
    for pick in picks {
        clear(pick(&mut folded));
    }
    let mix = &mut folded.layers[0].mix;
    clear(mix);
    (0..width).for_each(|i| mix.weight[i * (width + 1)] = 1.0);
    let weights = WeightLayout::new(shape, OperandType::Bf16)
        .unwrap()
        .vectors_offset();
    let ones = |folded: &Folded| {
        let packed = pack(folded, OperandType::Bf16).unwrap();
        let (pairs, _) = packed[..weights].as_chunks::<2>();
        pairs.iter().filter(|pair| **pair == [0x80, 0x3F]).count()
    };
    assert_eq!(ones(&folded), 0);
    for pick in picks {
        mark(pick(&mut folded));
        let size = pick(&mut folded).weight.len();
        assert_eq!(ones(&folded), size);
        clear(pick(&mut folded));
    }
}

#[test]
fn other_shapes_are_refused_with_the_remedy() {
    let refused = |width, ffn| {
        let folded = Folded::new(&Weights::seeded(1, Shape::new(width, 1, ffn).unwrap()));
        pack(&folded, OperandType::Bf16).unwrap_err()
    };
    for (width, ffn, said) in [
        (32, 1024, "32 wide; use --backend cpu"),
        (256, 1000, "this one's is 1000; use --backend cpu"),
    ] {
        let error = refused(width, ffn).to_string();
        assert!(error.ends_with(said), "{error}");
    }
    let mut folded = Folded::new(&Weights::seeded(1, Shape::new(256, 1, 1024).unwrap()));
    folded.embed.weight[7] = f32::MAX;
    let error = pack(&folded, OperandType::Bf16).unwrap_err().to_string();
    assert!(error.contains("too large for bf16"), "{error}");
}

#[test]
fn numbers_beyond_f16_take_bf16() {
    let folded = Folded::new(&Weights::seeded(3, Shape::new(256, 1, 1024).unwrap()));
    let operands = |change: fn(&mut Folded)| {
        let mut folded = folded.clone();
        change(&mut folded);
        WeightLayout::of(&folded).unwrap().operands()
    };
    assert_eq!(operands(|_| ()), OperandType::F16);
    let changes: [fn(&mut Folded); 5] = [
        |folded| folded.embed.weight[3] = 40_000.0,
        |folded| folded.input_norm.gain[3] = 2500.0,
        |folded| folded.layers[0].norm2.bias[3] = -40_000.0,
        |folded| folded.layers[0].expand.bias[3] = 40_000.0,
        |folded| folded.value_hidden.weight[..256].fill(200.0),
    ];
    for change in changes {
        assert_eq!(operands(change), OperandType::Bf16);
    }
}
