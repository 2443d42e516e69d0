//! What the tests of new weights share: networks that are told apart by their seeds, and replays
//! that are checked round by round against what each network plays alone.
#![allow(dead_code, clippy::unwrap_used)]

use super::run::*;
use nix::sys::signal::Signal::SIGTERM;
use ringmaster::network::Weights;
use ringmaster::replay::{Manifest, ReplayReader, RoundRecord};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

pub const SEARCH: &str = "--worlds 2 --simulations 12 --seed 5";
pub const ENDLESS: &str = "--rounds 100000000 --reload-s 0.02";

/// Networks by seed, the place where a run looks for them, and what each plays alone.
pub struct Stage {
    pub place: Place,
    /// What is played, and how.
    game: &'static str,
    engine: &'static str,
    alone: RefCell<BTreeMap<String, Vec<RoundRecord>>>,
}

impl Stage {
    /// For runs with these further flags; the first network lies ready.
    pub fn new(game: &'static str, engine: &'static str) -> Stage {
        let stage = Stage {
            place: Place::new(),
            game,
            engine,
            alone: RefCell::default(),
        };
        stage.put(1);
        stage
    }

    pub fn file(&self, seed: u64) -> PathBuf {
        let file = self.place.out(&format!("network-{seed}"));
        if !file.exists() {
            let size = format!("weights init --width 16 --depth 1 --ffn 16 --seed {seed} --out");
            let mut command = ringmaster();
            command.args(size.split(' ')).arg(&file);
            assert!(command.output().unwrap().status.success());
        }
        file
    }

    pub fn hash(&self, seed: u64) -> String {
        let hash = Weights::load(&self.file(seed)).unwrap().hash();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Puts a file in the place of the weights, at one stroke.
    pub fn put_file(&self, file: &Path) {
        let whole = self.place.out("whole");
        fs::copy(file, &whole).unwrap();
        fs::rename(whole, self.place.weights()).unwrap();
    }

    pub fn put(&self, seed: u64) {
        self.put_file(&self.file(seed));
    }

    pub fn start(&self, out: &Path, more: &str, stop_at: &str) -> Running {
        self.place
            .start(out, &self.flags(&format!("{ENDLESS} {more}")), stop_at)
    }

    /// Starts a run whose weights lie at this place.
    pub fn start_from(&self, weights: &Path, out: &Path, more: &str) -> Running {
        let mut command = ringmaster();
        command
            .arg("selfplay")
            .args(self.flags(more).split_whitespace());
        command.arg("--weights").arg(weights).arg("--out").arg(out);
        command.arg("--json");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    pub fn flags(&self, more: &str) -> String {
        format!("{SEARCH} {} {} {more}", self.game, self.engine)
    }

    /// Checks a closed replay round by round against what each network plays alone; rounds by
    /// network.
    pub fn check(&self, out: &Path) -> Vec<u64> {
        let manifest = Manifest::read(out).unwrap();
        let reader = ReplayReader::open(out).unwrap();
        let records: Vec<_> = reader
            .records()
            .map(|stored| stored.unwrap().record)
            .collect();
        let last = records.iter().map(|record| record.round).max().unwrap();
        let mut counts = vec![0; manifest.networks.len()];
        for network in &manifest.networks {
            self.play_alone(&network.weights, last);
        }
        let alone = self.alone.borrow();
        for record in &records {
            let network = manifest.network_of(record.round);
            counts[network as usize] += 1;
            let weights = &manifest.networks[network as usize].weights;
            let expected = RoundRecord {
                network,
                ..alone[weights][record.round as usize].clone()
            };
            assert_eq!(record, &expected, "{}", out.display());
        }
        verify(out);
        counts
    }

    /// Has a network play the rounds up to `last` alone, in one process.
    fn play_alone(&self, weights: &str, last: u64) {
        let mut alone = self.alone.borrow_mut();
        let known = alone.entry(weights.to_owned()).or_default();
        if known.len() as u64 > last {
            return;
        }
        let seed = (1..9).find(|&seed| self.hash(seed) == weights).unwrap();
        self.put(seed);
        let out = self.place.out(&format!("alone-{seed}-{last}"));
        // Games of 3 players from 2 cards have 5 rounds; more are played than needed.
        let amount = match self.game {
            "" => format!("--rounds {}", last + 1),
            _ => format!("--games {}", last / 5 + 1),
        };
        let flags = format!("{SEARCH} {} {amount} --workers 0 --in-flight 64", self.game);
        self.place.play(&out, &flags);
        let reader = ReplayReader::open(&out).unwrap();
        *known = reader
            .records()
            .map(|stored| stored.unwrap().record)
            .collect();
    }
}

/// Waits until so many networks have come to play and the last of them plays alone.
pub fn wait_for_networks(out: &Path, count: usize) {
    let newest = [format!("weights-{}.safetensors", count - 1)];
    wait_until("new weights play", || {
        let manifest = Manifest::read(out);
        manifest.is_ok_and(|manifest| manifest.networks.len() == count) && copies(out) == newest
    });
    wait_for_more(out);
}

/// Waits until so much more has been written than there is.
pub fn wait_for_more(out: &Path) {
    wait_for_rounds(out, written(out) + 20_000);
}

pub fn interrupt(running: Running) -> Ended {
    send(running.pid(), SIGTERM);
    let ended = running.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    ended
}

pub fn copies(out: &Path) -> Vec<String> {
    let names = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.starts_with("weights-")).collect()
}
