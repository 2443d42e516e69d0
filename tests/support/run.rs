//! What the tests of faults share: a run in the background, its processes as the system sees them,
//! and what it left behind.
#![allow(dead_code, clippy::unwrap_used)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmaster::engine::regions::Regions;
use ringmaster::settings::Settings;
use ringmaster::shm::Segment;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(90);

pub fn ringmaster() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringmaster"))
}

/// A folder with a small network and a place for replays.
pub struct Place {
    pub folder: TempDir,
    /// Environment of runs.
    pub environment: Vec<(&'static str, PathBuf)>,
}

impl Place {
    pub fn new() -> Place {
        Place::with_network("--width 16 --depth 1 --ffn 16")
    }

    pub fn with_network(size: &str) -> Place {
        let place = Place {
            folder: TempDir::new().unwrap(),
            environment: Vec::new(),
        };
        let mut command = ringmaster();
        command
            .args(["weights", "init", "--seed", "1"])
            .args(size.split(' '));
        command.arg("--out").arg(place.weights());
        assert!(command.output().unwrap().status.success());
        place
    }

    pub fn weights(&self) -> PathBuf {
        self.folder.path().join("small.safetensors")
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A settings file with these lines.
    pub fn config(&self, toml: &str) -> String {
        let file = self.out("settings.toml");
        fs::write(&file, toml).unwrap();
        format!("--config {}", file.display())
    }

    /// `selfplay` with the small network into `out`.
    pub fn selfplay(&self, out: &Path, flags: &str) -> Command {
        let mut command = ringmaster();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("selfplay").args(flags.split_whitespace());
        command.arg("--weights").arg(self.weights());
        command.arg("--out").arg(out).arg("--json");
        command
    }

    /// Starts a run in the background.
    pub fn start(&self, out: &Path, flags: &str, stop_at: &str) -> Running {
        let mut command = self.selfplay(out, flags);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if !stop_at.is_empty() {
            command.env("RINGMASTER_STOP_AT", stop_at);
        }
        Running(command.spawn().unwrap())
    }

    /// Plays a run to its end; its report.
    pub fn play(&self, out: &Path, flags: &str) -> Value {
        let ended = self.start(out, flags, "").finish();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.report()
    }
}

/// What a process has said so far, read as it comes.
#[derive(Clone, Default)]
pub struct Said(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Said {
    fn listen(&self, mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<()> {
        let said = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                said.0.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A run in the background; killed with all it started if the test fails.
pub struct Running(pub Child);

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn report(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {:?} {}", self.stdout, self.stderr))
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn children(&self) -> Vec<u32> {
        children_of(self.pid())
    }

    /// Waits until it has so many children; they come evaluator first, then the workers.
    pub fn wait_for_children(&self, count: usize) -> Vec<u32> {
        wait_until("all processes run", || self.children().len() == count);
        self.children()
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Kills coordinator and children as nearly at once as can be; their numbers.
    pub fn kill_all(mut self) -> Vec<u32> {
        let mut all = vec![self.pid()];
        all.extend(self.children());
        for &pid in &all {
            send(pid, Signal::SIGKILL);
        }
        self.0.wait().unwrap();
        // One that was being started in that moment notices that it has no parent.
        wait_until("all are gone", || !all.iter().any(|&pid| is_alive(pid)));
        all
    }

    /// What it says on stderr, from now on.
    pub fn listen(&mut self) -> Said {
        let said = Said::default();
        if let Some(pipe) = self.0.stderr.take() {
            said.listen(pipe);
        }
        said
    }

    /// Waits for its end. What `listen` was asked for is not in `stderr`.
    pub fn finish(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        // Read all the time: a full pipe would stop the run.
        let said = Said::default();
        let reader = self.0.stderr.take().map(|pipe| said.listen(pipe));
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "the coordinator hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut stdout = String::new();
        let mut pipe = self.0.stdout.take().unwrap();
        pipe.read_to_string(&mut stdout).unwrap();
        if let Some(reader) = reader {
            reader.join().unwrap();
        }
        Ended {
            code: self.0.wait().unwrap().code(),
            stdout,
            stderr: said.text(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            for pid in self.children() {
                send(pid, Signal::SIGKILL);
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

pub fn children_of(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The process of worker number `index` of the run with coordinator `pid`, if it is there.
pub fn worker_of(pid: u32, index: usize) -> Option<u32> {
    let index = format!("--index\0{index}\0");
    children_of(pid).into_iter().find(|child| {
        fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.contains(&index))
    })
}

/// How `unshare` gives a process mounts of its own: as root, or as root of a user namespace. None
/// where neither is allowed.
pub fn own_mounts() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    ways.into_iter().find(|way| {
        let mut command = Command::new("unshare");
        command
            .args(*way)
            .args(["mount", "-t", "tmpfs", "none", "/tmp"]);
        command.output().is_ok_and(|output| output.status.success())
    })
}

/// State letter of a process; `None` if there is none.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Processor time of a process so far, in ticks.
pub fn ticks_of(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields 14 and 15; the state, which follows the name, is field 3.
    let (_, after) = stat.rsplit_once(") ").unwrap_or_default();
    let times = after.split(' ').skip(11).take(2);
    times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

pub fn is_alive(pid: u32) -> bool {
    // A zombie is dead; its parent has just not looked yet.
    state_of(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// Sends a signal to a process that may be gone.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Segments in /dev/shm made by process `pid`.
pub fn segments_of(pid: u32) -> Vec<String> {
    let prefix = format!("ringmaster-{pid}-");
    let entries = fs::read_dir("/dev/shm").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// The segment of a run, with its settings and layout, once it is finished.
pub fn segment_of(running: &Running) -> (Segment, Settings, Regions) {
    wait_until("a segment", || !segments_of(running.pid()).is_empty());
    let name = format!("/{}", segments_of(running.pid())[0]);
    let mut segment = None;
    wait_until("the segment is finished", || {
        segment = Segment::open(&name).ok();
        segment.is_some()
    });
    let segment = segment.unwrap();
    let settings: Settings = serde_json::from_slice(&segment.config().unwrap()).unwrap();
    let regions = Regions::new(&settings);
    segment.check(&regions.layout).unwrap();
    (segment, settings, regions)
}

/// Every finished shard of a replay, by name.
pub fn shards(out: &Path) -> Vec<(String, Vec<u8>)> {
    let paths = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut shards: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "shard"))
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .collect();
    shards.sort();
    shards
}

/// Bytes of rounds written so far.
pub fn written(out: &Path) -> u64 {
    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    let shards = entries.filter(|e| e.file_name().to_string_lossy().starts_with("rounds-"));
    // One that is just being renamed counts at the next look.
    shards.filter_map(|e| Some(e.metadata().ok()?.len())).sum()
}

/// Waits until more than so many bytes of rounds are written in all.
pub fn wait_for_rounds(out: &Path, bytes: u64) {
    wait_until("rounds are written", || written(out) > bytes);
}

/// Rounds and digest of a replay, all of it checked.
pub fn verify(out: &Path) -> Value {
    let mut command = ringmaster();
    command.args(["replay", "verify", "--json"]).arg(out);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Nothing of a run is left: no process, no segment, no temporary file, a replay that is whole and
/// has this digest.
pub fn nothing_is_left(out: &Path, pids: &[u32], digest: &Value, what: &str) {
    wait_until("all processes are gone", || {
        !pids.iter().any(|&pid| is_alive(pid))
    });
    for &pid in pids {
        assert!(segments_of(pid).is_empty(), "{what}: a segment is left");
    }
    for entry in fs::read_dir(out).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(!name.ends_with(".part"), "{what}: {name} is left");
    }
    assert_eq!(&verify(out)["digest"], digest, "{what}");
}
