//! The trial of a kernel whose answers must be seen before it is used: a note on disk, beside the compiled kernels, so that it is held
//! once for a GPU and a driver. Whoever holds the trial holds a lock on the note, and others wait; a note that says "begun" and is not
//! locked is that of a process that did not survive its trial, or whose GPU did not.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::cache::{Cache, Key};

const BEGUN: &str = "begun";
const PROVEN: &str = "proven";
const DIFFERS: &str = "differs";

/// What is known of a kernel.
#[derive(Debug)]
pub enum Trial {
    /// It gave the right answers.
    Proven,
    /// Its answers were others; here that is noted.
    Differs(PathBuf),
    /// Its trial did not come to an end; here that is noted.
    Failed(PathBuf),
    /// It is to be tried now.
    Open(Note),
}

/// The note of a trial under way. Dropped without an outcome it stays as it is: begun.
#[derive(Debug)]
pub struct Note {
    /// Locked. None without a place for it; the trial is then held at every start.
    file: Option<File>,
}

impl Trial {
    /// Of the kernel `entry` among those of `key`, on the GPU and driver that `device` names. Waits while another process holds it.
    pub fn of(cache: &Cache, key: &Key, entry: &str, device: &str) -> Trial {
        let name = format!("{entry}.{}.trial", plain(device));
        let open = Trial::Open(Note { file: None });
        let Some(path) = cache.beside(key, &name) else {
            return open;
        };
        let Ok((mut file, told)) = locked(&path) else {
            return open;
        };
        match told.as_str() {
            PROVEN => Trial::Proven,
            DIFFERS => Trial::Differs(path),
            BEGUN => Trial::Failed(path),
            // New, or of no sense: as good as new.
            _ => {
                let is_noted = write(&mut file, BEGUN).is_ok();
                Trial::Open(Note {
                    file: is_noted.then_some(file),
                })
            }
        }
    }
}

impl Note {
    /// Will the next start know if this trial does not come to an end?
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Notes the outcome. Best effort: what is not noted is tried again, or taken for a failure.
    pub fn end(mut self, is_proven: bool) {
        if let Some(file) = &mut self.file {
            let _ = write(file, if is_proven { PROVEN } else { DIFFERS });
        }
    }
}

/// The file, made if it is not there, under its lock, and what it says.
fn locked(path: &Path) -> std::io::Result<(File, String)> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.lock()?;
    let mut told = String::new();
    // What is no text says nothing.
    if file.read_to_string(&mut told).is_err() {
        told.clear();
    }
    Ok((file, told))
}

fn write(file: &mut File, text: &str) -> std::io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Fit for a file's name.
fn plain(device: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    device.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new(&[], &[], (13, 0))
    }

    fn trial(cache: &Cache, device: &str) -> Trial {
        Trial::of(cache, &key(), "kernel", device)
    }

    fn begun(cache: &Cache) -> Note {
        match trial(cache, "GPU 1") {
            Trial::Open(note) => note,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_outcome_is_known_from_then_on() {
        for is_proven in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::at(&folder.path().join("not/yet"));
            let note = begun(&cache);
            assert!(note.is_kept());
            note.end(is_proven);
            match trial(&cache, "GPU 1") {
                Trial::Proven => assert!(is_proven),
                Trial::Differs(path) => assert!(!is_proven && path.exists()),
                other => panic!("{other:?}"),
            }
            assert!(
                matches!(trial(&cache, "GPU 2"), Trial::Open(_)),
                "another device, another trial"
            );
        }
    }

    #[test]
    fn a_trial_without_an_outcome_has_failed_until_its_note_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        drop(begun(&cache));
        let Trial::Failed(path) = trial(&cache, "GPU 1") else {
            panic!("the trial did not end");
        };
        fs::remove_file(path).unwrap();
        begun(&cache).end(true);
        // A note of no sense counts for nothing.
        let note = cache.beside(&key(), "kernel.GPU-1.trial").unwrap();
        fs::write(&note, [0xff, 0xfe]).unwrap();
        begun(&cache).end(true);
        assert!(matches!(trial(&cache, "GPU 1"), Trial::Proven));
    }

    #[test]
    fn others_wait_for_a_trial_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let held = begun(&cache);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| trial(&cache, "GPU 1"));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!waiting.is_finished());
            held.end(true);
            assert!(matches!(waiting.join().unwrap(), Trial::Proven));
        });
    }

    #[test]
    fn without_a_place_each_start_tries() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let note = begun(&Cache::at(&file));
        assert!(!note.is_kept());
        note.end(true);
    }
}
