//! The evaluations of one decision by observation, known or asked for: worlds that share an
//! observation (the root above all) share its evaluation. It lives for one decision, so what is
//! asked never depends on timing; its room is the largest number of leaves a decision can ask for.

use crate::observation::Position;
use crate::wire::Evaluation;
use bytemuck::Zeroable;
use rustc_hash::FxHasher;
use std::hash::Hasher;

/// An observation and its evaluation.
#[derive(Clone, Copy)]
struct Entry {
    position: Position,
    /// What the network answered, once `is_known`.
    evaluation: Evaluation,
    is_known: bool,
}

/// An open-addressing table from observation to entry number.
pub struct Cache {
    /// The first `len` are in use; as many as any decision so far had have been made.
    entries: Vec<Entry>,
    len: usize,
    /// (generation, entry number); a slot of an older generation is empty.
    slots: Vec<(u32, u32)>,
    generation: u32,
}

impl Cache {
    /// Room for `capacity` observations.
    pub fn new(capacity: usize) -> Cache {
        Cache {
            // Reserved, not written: most decisions ask for far fewer, and what is never written
            // takes no memory.
            entries: Vec::with_capacity(capacity),
            len: 0,
            slots: vec![(0, 0); (2 * capacity).next_power_of_two()],
            generation: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.len = 0;
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.slots.fill((0, 0));
            self.generation = 1;
        }
    }

    /// The entry of an observation, and whether it is new.
    pub fn find_or_add(&mut self, position: &Position) -> (u32, bool) {
        let mask = self.slots.len() - 1;
        let mut slot = hash(position) as usize & mask;
        loop {
            let (generation, entry) = self.slots[slot];
            if generation != self.generation {
                break;
            }
            if self.entries[entry as usize].position == *position {
                return (entry, false);
            }
            slot = (slot + 1) & mask;
        }
        let entry = self.len as u32;
        self.slots[slot] = (self.generation, entry);
        match self.entries.get_mut(self.len) {
            Some(entry) => {
                entry.position = *position;
                entry.is_known = false;
            }
            None => self.entries.push(Entry {
                position: *position,
                evaluation: Evaluation::zeroed(),
                is_known: false,
            }),
        }
        self.len += 1;
        (entry, true)
    }

    /// The observation of an entry.
    pub fn position(&self, entry: u32) -> &Position {
        &self.entries[entry as usize].position
    }

    /// The evaluation of an entry, once it is known.
    pub fn evaluation(&self, entry: u32) -> Option<&Evaluation> {
        let entry = &self.entries[entry as usize];
        entry.is_known.then_some(&entry.evaluation)
    }

    /// Entries that have been asked for and not answered, ascending.
    pub fn unanswered(&self) -> impl Iterator<Item = u32> {
        let asked = self.entries[..self.len].iter().enumerate();
        asked.filter_map(|(nth, entry)| (!entry.is_known).then_some(nth as u32))
    }

    /// Takes in the evaluation of an entry. False if no such entry waits for one.
    pub fn fulfil(&mut self, entry: u32, evaluation: &Evaluation) -> bool {
        match self.entries[..self.len].get_mut(entry as usize) {
            Some(entry) if !entry.is_known => {
                entry.evaluation = *evaluation;
                entry.is_known = true;
                true
            }
            _ => false,
        }
    }
}

fn hash(position: &Position) -> u64 {
    let mut hasher = FxHasher::default();
    for &word in bytemuck::cast_ref::<Position, [u64; 11]>(position) {
        hasher.write_u64(word);
    }
    hasher.finish()
}
