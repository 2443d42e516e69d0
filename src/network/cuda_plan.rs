//! Placeholder until the kernels are merged.
pub struct LaunchPlan {
    pub entry: &'static str,
    pub grid: u32,
    pub block: u32,
    pub cluster: u32,
    pub shared_bytes: u32,
}
pub fn options(major: u32, minor: u32) -> Vec<String> {
    vec![format!("--gpu-architecture=sm_{major}{minor}")]
}
pub fn plan(_major: u32, _minor: u32, _multiprocessors: u32, rows: u32) -> LaunchPlan {
    LaunchPlan {
        entry: "blobnet_placeholder",
        grid: rows.div_ceil(16),
        block: 128,
        cluster: 1,
        shared_bytes: 0,
    }
}
