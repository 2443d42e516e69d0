//! What is wrong, and what to do about it: the two halves of every message that a user meets.

/// A cause with its remedy, told in one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{cause}{}{remedy}", if remedy.is_empty() { "" } else { "; " })]
pub struct Fault {
    /// What is wrong, and where.
    pub cause: String,
    /// What to do; empty where nothing can be done about it.
    pub remedy: String,
}

impl Fault {
    /// Of these two halves.
    pub fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }
}
