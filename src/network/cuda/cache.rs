//! Compiled kernels on disk, so that only the first start of a machine compiles. An entry's name is
//! the hash of everything that its bytes depend on, and it carries a hash of its own contents: a
//! damaged entry counts as none. Processes that start at once write under names of their own and
//! rename, so each reader finds a whole entry or none.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::nvrtc::Source;
use crate::input;

/// First bytes of an entry; the hash of the contents follows, then the contents.
const MAGIC: &[u8; 16] = b"ringmaster-cubin";
const HASH_BYTES: usize = 32;
/// An entry larger than this is none; kernels are some hundred KiB.
const ENTRY_BYTES_MAX: u64 = 1 << 26;

/// A folder of compiled kernels; without one, nothing is kept.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// Names an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of what NVRTC `version` makes of `sources` with `options` (the architecture among
    /// them).
    pub fn new(sources: &[Source], options: &[String], version: (u32, u32)) -> Key {
        let mut hash = Sha256::new();
        // Each part with its length before it, so that no two lists of parts run together alike.
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(env!("CARGO_PKG_VERSION").as_bytes());
        add(&version.0.to_le_bytes());
        add(&version.1.to_le_bytes());
        for source in sources {
            add(source.name.as_bytes());
            add(source.text.as_bytes());
        }
        add(b"options");
        for option in options {
            add(option.as_bytes());
        }
        Key(hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

impl Cache {
    /// The user's: `$XDG_CACHE_HOME/ringmaster`, or `~/.cache/ringmaster`; none if neither is set.
    pub fn of_user() -> Cache {
        let absolute = |name: &str| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Cache {
            folder: caches.map(|caches| caches.join("ringmaster")),
        }
    }

    /// One in a folder of the caller's choice, made when first written to.
    pub fn at(folder: &Path) -> Cache {
        Cache {
            folder: Some(folder.to_owned()),
        }
    }

    /// Where it is.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The entry of a key, if it is there and whole.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let bytes = input::read(&self.path(key)?, ENTRY_BYTES_MAX).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (hash, contents) = rest.split_at_checked(HASH_BYTES)?;
        (Sha256::digest(contents)[..] == *hash && !contents.is_empty()).then(|| contents.to_vec())
    }

    /// Keeps an entry. Best effort: without a cache, the next start compiles again.
    pub fn put(&self, key: &Key, contents: &[u8]) -> bool {
        self.path(key)
            .is_some_and(|path| write(&path, contents).is_ok())
    }

    fn path(&self, key: &Key) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{}.cubin", key.0)))
    }
}

fn write(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Threads of one process, too, may be at it.
    name.push(format!(
        ".{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let temporary = folder.join(name);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&Sha256::digest(contents))?;
            file.write_all(contents)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source {
        name: "a.cu",
        text: "text",
    };

    fn key(text: &'static str, option: &str) -> Key {
        Key::new(&[Source { text, ..SOURCE }], &[option.to_owned()], (12, 8))
    }

    #[test]
    fn everything_enters_the_key() {
        let base = key("x", "-arch=sm_90");
        assert_eq!(base, key("x", "-arch=sm_90"));
        assert_ne!(base, key("y", "-arch=sm_90"));
        assert_ne!(base, key("x", "-arch=sm_89"));
        let options = ["-arch=sm_90".to_owned()];
        let source = |name| Source { name, text: "x" };
        assert_ne!(base, Key::new(&[source("b.cu")], &options, (12, 8)));
        assert_ne!(base, Key::new(&[source("a.cu")], &options, (12, 9)));
        assert_ne!(base, Key::new(&[source("a.cu")], &[], (12, 8)));
        assert_ne!(key("ab", "c"), key("a", "bc"));
    }

    #[test]
    fn what_is_put_is_got() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("not/yet"));
        let key = key("x", "o");
        assert_eq!(cache.get(&key), None);
        assert!(cache.put(&key, b"cubin"));
        assert_eq!(cache.get(&key).as_deref(), Some(&b"cubin"[..]));
        assert!(cache.put(&key, b"another"));
        assert_eq!(cache.get(&key).as_deref(), Some(&b"another"[..]));
        let left: Vec<_> = fs::read_dir(cache.folder().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "no temporary file stays");
    }

    #[test]
    fn damaged_entries_count_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let key = key("x", "o");
        assert!(cache.put(&key, b"some cubin"));
        let path = cache.path(&key).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.get(&key), None, "cut at {length}");
        }
        for index in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[index] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(cache.get(&key), None, "byte {index}");
        }
        assert!(cache.put(&key, b"some cubin"));
        assert!(cache.get(&key).is_some());
    }

    #[test]
    fn writers_at_once_leave_a_whole_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let key = key("x", "o");
        let versions: Vec<Vec<u8>> = (1..=8u8).map(|n| vec![n; 50_000]).collect();
        std::thread::scope(|scope| {
            for version in &versions {
                let (cache, key) = (&cache, &key);
                scope.spawn(move || {
                    for _ in 0..20 {
                        assert!(cache.put(key, version));
                        let read = cache.get(key).unwrap();
                        assert!(read.iter().all(|byte| *byte == read[0]) && read.len() == 50_000);
                    }
                });
            }
        });
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let cache = Cache::at(&file);
        assert!(!cache.put(&key("x", "o"), b"c"));
        assert_eq!(cache.get(&key("x", "o")), None);
    }
}
