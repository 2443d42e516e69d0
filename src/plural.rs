//! Numbers in text: counts in words, bytes in hexadecimal.

use std::fmt::Display;

/// A number and the noun it counts, which is given in the singular: 1 round, 2 rounds.
pub fn counted(number: impl Copy + Display + TryInto<u64>, noun: &str) -> String {
    if number.try_into().ok() == Some(1) {
        return format!("{number} {noun}");
    }
    match noun.strip_suffix("leaf") {
        Some(before) => format!("{number} {before}leaves"),
        None if noun.ends_with('s') => format!("{number} {noun}es"),
        None => format!("{number} {noun}s"),
    }
}

/// Two lower-case digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_many() {
        let told = [0_u64, 1, 2].map(|number| counted(number, "round"));
        assert_eq!(told, ["0 rounds", "1 round", "2 rounds"]);
        assert_eq!(counted(4_usize, "leaf"), "4 leaves");
        assert_eq!(counted(1_u32, "process"), "1 process");
        assert_eq!(counted(3_u32, "process"), "3 processes");
    }

    #[test]
    fn two_digits_a_byte() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }
}
