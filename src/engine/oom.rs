//! Whether the kernel's OOM killer was at work among this run's processes: to them its kill looks
//! like any other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Deaths so soon after a kill was counted are its doing: one burst is seen in several looks.
const AFTERMATH: Duration = Duration::from_secs(2);

/// The count of OOM kills in this process's control group.
pub struct OomMonitor {
    /// The file that counts them; none if the system does not say.
    file: Option<PathBuf>,
    seen: u64,
    grew: Option<Instant>,
}

impl OomMonitor {
    /// Watches from now on.
    pub fn new() -> OomMonitor {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut files = candidates(&cgroups, Path::new("/sys/fs/cgroup"));
        // Of the whole machine.
        files.push("/proc/vmstat".into());
        OomMonitor::of(files)
    }

    fn of(files: Vec<PathBuf>) -> OomMonitor {
        let file = files.into_iter().find(|file| kills_in(file).is_some());
        OomMonitor {
            seen: file.as_deref().and_then(kills_in).unwrap_or(0),
            file,
            grew: None,
        }
    }

    /// Has it killed just now?
    pub fn has_killed(&mut self) -> bool {
        let kills = self.file.as_deref().and_then(kills_in);
        if let Some(kills) = kills.filter(|&kills| kills > self.seen) {
            self.seen = kills;
            self.grew = Some(Instant::now());
        }
        self.grew.is_some_and(|at| at.elapsed() < AFTERMATH)
    }
}

/// Where the kills of the control groups in `cgroups` (the text of /proc/self/cgroup) may be
/// counted. In a container the group's path may be the host's, and the group itself lie at the
/// root.
fn candidates(cgroups: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mount, file) = match id {
            "0" => (root.to_owned(), "memory.events"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.oom_control")
            }
            _ => continue,
        };
        files.push(mount.join(path.trim_start_matches('/')).join(file));
        files.push(mount.join(file));
    }
    files
}

fn kills_in(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    text.lines().find_map(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_found_where_the_system_counts_them() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let events = |kills: u64| format!("low 0\nmax 7\noom 3\noom_kill {kills}\n");
        let control = |kills: u64| format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
        for (cgroups, file, text) in [
            (
                "0::/user.slice/run\n",
                "user.slice/run/memory.events",
                &events as &dyn Fn(u64) -> String,
            ),
            ("0::/of/the/host\n", "memory.events", &events),
            (
                "5:devices:/\n4:cpu,memory:/docker/x\n0::/\n",
                "memory/docker/x/memory.oom_control",
                &control,
            ),
            (
                "4:memory:/elsewhere\n",
                "memory/memory.oom_control",
                &control,
            ),
        ] {
            write(file, &text(2));
            let mut watch = OomMonitor::of(candidates(cgroups, root.path()));
            assert!(!watch.has_killed(), "{file}: before its time");
            write(file, &text(14));
            assert!(watch.has_killed(), "{file}");
            assert!(watch.has_killed(), "the rest of the burst");
            fs::remove_file(root.path().join(file)).unwrap();
            assert_eq!(watch.seen, 14, "a group that is gone says nothing");
        }
        let mut blind = OomMonitor::of(vec![root.path().join("memory.events")]);
        assert!(!blind.has_killed());
    }
}
