//! Placeholder until the kernels are merged.
use super::Folded;
pub fn pack(folded: &Folded) -> Vec<u8> {
    folded
        .matrices()
        .flat_map(|m| {
            m.weight
                .iter()
                .flat_map(|w| half::bf16::from_f32(*w).to_le_bytes())
        })
        .collect()
}
