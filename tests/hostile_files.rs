//! Files from anywhere: whole ones changed at random (bytes set, flipped, cut out, doubled, cut
//! off, numbers made huge), and a corpus of particular ones under `tests/corpus`, through every
//! parser: weights, settings, manifest, shard, arrays, a sweep's spec and journal, the tables of
//! `compare`. Whatever comes of it is an error or a success: never a panic, never a loop, never a
//! large allocation. This test runs itself once more per parser with its memory limited, so that an
//! allocation by a size read from a file ends it. (`tests/replay` covers what checksums find; here
//! they are mended where they would keep everything else from being reached.)
#![allow(clippy::unwrap_used)]

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::measure::compare;
use ringmaster::measure::sweep::{self, TrialEntry, TrialJournal};
use ringmaster::network::{Shape, Weights};
use ringmaster::replay::{self, Manifest, ReplayWriter};
use ringmaster::settings::Settings;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[path = "replay/made.rs"]
#[allow(dead_code)]
mod made;
#[path = "support/run.rs"]
mod run;

/// Address space of a child: what the program needs anyway, and room for the largest file here many
/// times over.
const MEMORY: u64 = 512 << 20;
/// How long one parser is tried.
const TIME: Duration = Duration::from_secs(2);
/// No single file may take longer.
const SLOWEST: Duration = Duration::from_secs(5);

/// A parser: what it reads, and a sound file to begin with.
struct Parser {
    name: &'static str,
    /// Makes a folder with sound files, and names the one to be changed.
    make: fn(&Path) -> PathBuf,
    /// Reads it; true if it was accepted.
    read: fn(&Path) -> bool,
}

const PARSERS: [Parser; 9] = [
    Parser {
        name: "weights",
        make: |dir| {
            let file = dir.join("net.safetensors");
            Weights::seeded(3, Shape::new(4, 1, 4).unwrap())
                .save(&file)
                .unwrap();
            file
        },
        read: |file| Weights::load(file).is_ok_and(|weights| weights.describe().parameters > 0),
    },
    Parser {
        name: "settings",
        make: |dir| {
            let file = dir.join("settings.toml");
            let toml = "rounds = 400\nworkers = 2\nseed = 3\nmax_batch = 512\nbackend = \"cpu\"\n\
                [rules]\ntrump = \"turned\"\ndealer_restriction = false\n\
                [search]\nnoise_alpha = 0.5\nc_puct = 1.5e0\n\
                [[mix]]\nplayers = 3\ncards = 2\nweight = 3.0\n";
            fs::write(&file, toml).unwrap();
            file
        },
        read: |file| {
            Settings::load(file).is_ok_and(|settings| {
                // What passes the check must be fit for use.
                settings.check().is_ok() && settings.resolve().table(12345).players >= 3
            })
        },
    },
    Parser {
        name: "manifest",
        make: |dir| {
            made::manifest(9, 4).write(dir).unwrap();
            dir.join("manifest.json")
        },
        read: |file| {
            let dir = file.parent().unwrap();
            let sound = Manifest::read(dir).is_ok();
            let _ = ReplayWriter::resume(dir, &made::manifest(9, 4), false);
            sound
        },
    },
    Parser {
        name: "shard",
        make: |dir| {
            made::write(dir, &made::rounds(3), 4);
            dir.join("rounds-000000.shard")
        },
        read: |file| {
            let dir = file.parent().unwrap();
            let _ = replay::show(dir, std::io::sink());
            let _ = ReplayWriter::resume(dir, &made::manifest(3, 4), false);
            replay::verify(dir).is_ok()
        },
    },
    Parser {
        name: "features",
        make: |dir| {
            let file = dir.join("features.npy");
            made::write_rows(&file, 3, 256, &[0.5; 768]);
            file
        },
        read: |file| replay::read_features(file).is_ok(),
    },
    Parser {
        name: "mask",
        make: |dir| {
            let file = dir.join("mask.npy");
            made::write_rows(&file, 3, 52, &[1.0; 156]);
            let bytes = fs::read(&file).unwrap();
            let mut mask = String::from_utf8_lossy(&bytes[..128])
                .replace("<f4", "|u1")
                .into_bytes();
            // The lossy reading has turned the first byte into three.
            mask.splice(..mask.len() - 127, [0x93]);
            mask.extend([1; 156]);
            fs::write(&file, mask).unwrap();
            file
        },
        read: |file| replay::read_mask(file).is_ok(),
    },
    Parser {
        name: "spec",
        make: |dir| {
            let file = dir.join("spec.toml");
            fs::write(&file, SPEC).unwrap();
            file
        },
        read: |file| {
            sweep::load(file).is_ok_and(|checked| {
                let summaries = sweep::summarize(&checked, &[]);
                // What passes the check must be fit for use.
                checked.combinations[0].settings.check().is_ok()
                    && sweep::page(&checked, &[], &summaries).ends_with("</html>\n")
            })
        },
    },
    Parser {
        name: "journal",
        make: |dir| {
            let spec = dir.join("spec.toml");
            fs::write(&spec, SPEC).unwrap();
            let file = dir.join("trials.jsonl");
            let mut journal = TrialJournal::open(&file).unwrap();
            for (number, combination) in sweep::load(&spec).unwrap().combinations.iter().enumerate()
            {
                let report =
                    json!({"batch_mean": 77 * number, "decision_ms_p99": 20.5, "rounds": 3});
                let entry = TrialEntry {
                    key: number.to_string(),
                    repetition: 1,
                    values: combination.values.clone(),
                    failed: (number == 2).then(|| "exit code 1: no".to_owned()),
                    report,
                    policy_distance: Some(0.01),
                };
                journal.push(entry).unwrap();
            }
            file
        },
        read: |file| {
            let checked = sweep::load(&file.with_file_name("spec.toml")).unwrap();
            TrialJournal::open(file).is_ok_and(|journal| {
                let summaries = sweep::summarize(&checked, &journal.entries);
                sweep::best(&checked, &summaries);
                sweep::table(&checked, &summaries).to_text();
                sweep::page(&checked, &journal.entries, &summaries).ends_with("</html>\n")
            })
        },
    },
    Parser {
        name: "table",
        make: |dir| {
            let file = dir.join("compare.csv");
            fs::write(&file, TABLE).unwrap();
            file
        },
        read: |file| {
            compare::read_csv(&[file.to_owned()]).is_ok_and(|rows| {
                compare::table(&rows);
                compare::page(&rows).ends_with("</html>\n")
            })
        },
    },
];

/// A sweep's spec with everything that can be in one.
const SPEC: &str = "name = \"all\"\n[base]\ncards = 5\n\
    [grid]\nworkers = [1, 2]\n\"worlds, simulations\" = [[2, 20], [3, 30]]\n\
    [random]\nsamples = 2\nseed = 9\nspace.max_wait_us = { low = 1, high = 10000, log = true }\n\
    space.\"search.c_puct\" = { low = 0.5, high = 2, fraction = true }\n\
    space.max_batch = [64, 128]\n\
    [trial]\nseconds = 5\nwarm_up_s = 1\nrepetitions = 3\norder_seed = 4\nreference_rounds = 8\n\
    [best]\nmetric = \"batch_mean\"\nminimize = true\n\
    constraints = [\"policy_distance <= 0.02\", \"decision_ms_p99 <= 500\"]\n";

/// A table as `compare` writes it, two repetitions of two modes.
const TABLE: &str = "machine,device,search,number,mode,how,repetition,workers,players,cards,\
    seconds,rounds_per_min,\
    rounds_finished,evaluations_per_s,batch_mean,batch_p50,batch_p99,batch_max,duplicates,\
    evaluator_busy,decision_ms_p50,\
    decision_ms_p99,positions,tv_mean,tv_p95,kl_mean,kl_p95,same_top,depth_mean,\
    evaluations_per_round\n\
    a,cpu,3x30,1,sequential,alone,1,2,4,5,3.0,311.5,12,5000.0,1.0,1.0,1.0,1.0,0,0.9,20.5,60.1,\
    250,0.0,0.0,0.0,0.0,1.0,2.9,1050.0\n\
    a,cpu,3x30,1,sequential,alone,2,2,4,5,3.0,300.0,11,4900.0,1.0,1.0,1.0,1.0,0,0.9,20.5,60.1,\
    250,0.0,0.0,0.0,0.0,1.0,2.9,1050.0\n\
    a,cpu,3x30,5,many,together,1,2,4,5,3.0,1200.0,60,21000.0,430.0,512.0,512.0,512.0,7,0.98,\
    200.5,600.1,250,0.01,0.1,0.0,0.0,0.97,2.9,1050.0\n\
    b,cuda,3x30,5,many,together,1,2,4,5,3.0,250000.0,9000,4.0e6,700.0,812.0,1024.0,1024.0,7,0.6,\
    20.5,60.1,250,0.01,0.1,0.0,0.0,0.97,2.9,1050.0\n";

/// Changes a file as damage and malice do.
fn change(bytes: &mut Vec<u8>, rng: &mut Xoshiro256PlusPlus) {
    for _ in 0..rng.random_range(1..5) {
        if bytes.is_empty() {
            return;
        }
        // Headers are where the numbers are.
        let reach = if rng.random_range(0..2) == 0 {
            bytes.len().min(400)
        } else {
            bytes.len()
        };
        let at = rng.random_range(0..reach);
        let end = (at + rng.random_range(1..40)).min(bytes.len());
        match rng.random_range(0..9) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let huge = [u32::MAX.to_le_bytes(), (i32::MAX as u32).to_le_bytes()];
                let word = huge[rng.random_range(0..2)];
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            6 => {
                // A digit in text, or a whole number, made extreme.
                if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    let numbers = [
                        "9223372036854775807",
                        "-1",
                        "1e999",
                        "18446744073709551616",
                        "4294967295",
                        "5e-324",
                        "inf",
                        "nan",
                    ];
                    let number = numbers[rng.random_range(0..numbers.len())];
                    let first = at + digit;
                    let whole = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
                    let length = bytes[first..].iter().take_while(|byte| whole(byte)).count();
                    let length = if rng.random() { length } else { 1 };
                    bytes.splice(first..first + length, number.bytes());
                }
            }
            7 => {
                let brackets = ["[", "{", "\"a\":[", "[["][rng.random_range(0..4)];
                let many = brackets.repeat(rng.random_range(1..3000));
                bytes.splice(at..at, many.bytes());
            }
            _ => rng.fill_bytes(&mut bytes[at..end]),
        }
    }
}

/// Makes the checksums right again, so that what lies behind them is reached.
fn mend(name: &str, bytes: &mut Vec<u8>) {
    match name {
        "manifest" => {
            let text = String::from_utf8_lossy(bytes).into_owned();
            if let Some(end) = text.rfind(",\n  \"check\"") {
                let body = &text[..end];
                let check = crc32fast::hash(body.as_bytes());
                *bytes = format!("{body},\n  \"check\": \"{check:08x}\"\n}}\n").into_bytes();
            }
        }
        "shard" => {
            let mut at = 12;
            while at + 8 <= bytes.len() {
                let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
                let end = at + 8 + length;
                if length == 0 || end > bytes.len() {
                    break;
                }
                let check = crc32fast::hash(&[&bytes[at..at + 4], &bytes[at + 8..end]].concat());
                bytes[at + 4..at + 8].copy_from_slice(&check.to_le_bytes());
                at = end;
            }
            if let Some(end) = bytes.len().checked_sub(4).filter(|&end| end >= at) {
                let check = crc32fast::hash(&bytes[..end]);
                bytes[end..].copy_from_slice(&check.to_le_bytes());
            }
        }
        _ => {}
    }
}

/// Reads one file, in a folder of sound ones: `sound`, made anew each time because some are written
/// to.
fn try_one(parser: &Parser, sound: &[(String, Vec<u8>)], name: &str, bytes: &[u8]) -> bool {
    // In memory: thousands of files are written.
    let dir = TempDir::new_in("/dev/shm").unwrap();
    for (name, bytes) in sound {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let file = dir.path().join(name);
    fs::write(&file, bytes).unwrap();
    let start = Instant::now();
    let accepted = (parser.read)(&file);
    assert!(start.elapsed() < SLOWEST, "{} takes too long", parser.name);
    accepted
}

/// The child's part: the corpus, then changed files until the time is up. The file in hand is kept
/// in `last`, for the corpus.
fn try_parser(parser: &Parser, last: &Path) {
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).unwrap();
    let dir = TempDir::new().unwrap();
    let file = (parser.make)(dir.path());
    let sound = fs::read(&file).unwrap();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let whole: Vec<_> = made::contents(dir.path()).into_iter().collect();
    let try_one = |bytes: &[u8]| try_one(parser, &whole, &name, bytes);
    assert!(try_one(&sound), "the sound file is refused");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(parser.name);
    for entry in fs::read_dir(corpus).unwrap().flatten() {
        // Nothing is wrong with the odd ones.
        let is_odd = entry.file_name().to_string_lossy().starts_with("odd-");
        let accepted = try_one(&fs::read(entry.path()).unwrap());
        assert_eq!(accepted, is_odd, "{entry:?}");
    }
    let (start, mut tried, mut accepted) = (Instant::now(), 0, 0);
    while start.elapsed() < TIME {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(tried);
        let mut bytes = sound.clone();
        change(&mut bytes, &mut rng);
        if tried % 3 > 0 {
            mend(parser.name, &mut bytes);
        }
        fs::write(last, &bytes).unwrap();
        accepted += u64::from(try_one(&bytes));
        tried += 1;
    }
    println!("\n{}: {tried} files, {accepted} of them sound", parser.name);
}

/// Not a test of its own: what the others run, with limited memory, as a process of its own.
#[test]
fn child() {
    let Ok(name) = std::env::var("HOSTILE_FILES_CHILD") else {
        return;
    };
    let parser = PARSERS.iter().find(|parser| parser.name == name).unwrap();
    try_parser(
        parser,
        Path::new(&std::env::var("HOSTILE_FILES_LAST").unwrap()),
    );
}

#[test]
fn no_file_does_harm() {
    let dir = TempDir::new().unwrap();
    for parser in &PARSERS {
        let last = dir.path().join(parser.name);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads", "1"])
            .env("HOSTILE_FILES_CHILD", parser.name)
            .env("HOSTILE_FILES_LAST", &last)
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let kept = std::env::temp_dir().join(format!("hostile-{}", parser.name));
            let _ = fs::copy(&last, &kept);
            panic!(
                "{}: {}\n{text}{stderr}\nthe file: {}",
                parser.name,
                output.status,
                kept.display()
            );
        }
        let figures = text.lines().find(|line| line.starts_with(parser.name));
        println!("{}", figures.unwrap_or("nothing was tried"));
        assert!(figures.is_some());
    }
}

/// Runs the program in a folder until it ends by itself.
fn ended(folder: &Path, arguments: &str, input: Stdio) -> run::Ended {
    let mut command = run::ringmaster();
    command
        .current_dir(folder)
        .args(arguments.split_whitespace());
    command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    run::Running(command.spawn().unwrap()).finish()
}

#[test]
fn nothing_that_is_read_may_be_a_pipe_that_nobody_writes_to() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let replay = |name: &str| {
        fs::create_dir(at(name)).unwrap();
        made::write(&at(name), &made::rounds(3), 4);
        at(name)
    };
    let instead = |place: PathBuf| {
        let _ = fs::remove_file(&place);
        mkfifo(&place, Mode::S_IRWXU).unwrap();
    };
    instead(at("pipe"));
    instead(replay("manifest").join("manifest.json"));
    instead(replay("shard").join("rounds-000000.shard"));
    fs::create_dir(at("swept")).unwrap();
    instead(at("swept/trials.jsonl"));
    fs::write(at("spec.toml"), SPEC).unwrap();
    for arguments in [
        "selfplay --rounds 2 --weights pipe --out new",
        "selfplay --rounds 2 --config pipe --out new",
        "compare --config pipe",
        "compare --from pipe",
        "tune --weights pipe --out tuned.toml",
        "sweep pipe",
        "sweep spec.toml --out swept",
        "weights inspect pipe",
        "infer --features pipe --mask pipe --out new",
        "profile evaluator --weights pipe",
        "replay verify manifest",
        "replay verify shard",
        "export shard --out new",
        "selfplay --resume --out manifest",
    ] {
        let ended = ended(dir.path(), arguments, Stdio::null());
        let said = ended.stderr.trim_end();
        assert!(matches!(ended.code, Some(1 | 2)), "{arguments}: {said}");
        assert!(
            said.contains("it is a pipe, not a regular file"),
            "{arguments}: {said}"
        );
        // One error, behind what was done before.
        assert_eq!(
            said.matches("ringmaster:").count(),
            1,
            "{arguments}: {said}"
        );
        assert!(!at("new").exists(), "{arguments}");
    }
}

#[test]
fn settings_may_come_by_a_pipe_that_somebody_writes_to() {
    let dir = TempDir::new().unwrap();
    let flags = "--workers 0 --in-flight 1 --backend cpu --out";
    for (name, file) in [("one", "-"), ("two", "/dev/stdin"), ("three", "/dev/fd/0")] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer
            .write_all(b"rounds = 1\nplayers = 3\ncards = 1\nsimulations = 2\nseed = 77\n")
            .unwrap();
        drop(writer);
        let arguments = format!("selfplay {flags} {name} --config {file}");
        let ended = ended(dir.path(), &arguments, reader.into());
        assert_eq!(ended.code, Some(0), "{file}: {}", ended.stderr);
        assert_eq!(Manifest::read(&dir.path().join(name)).unwrap().seed, 77);
    }
    let endless = ended(dir.path(), "selfplay --config /dev/zero", Stdio::null());
    assert_eq!((endless.code, endless.stderr.lines().count()), (Some(2), 1));
    assert!(endless.stderr.contains("larger than"), "{}", endless.stderr);
}

#[test]
fn a_weight_in_a_mix_that_is_no_number_is_refused() {
    let dir = TempDir::new().unwrap();
    for (weight, is) in [
        ("nan", "no finite number"),
        ("inf", "no finite number"),
        ("0.0", "0"),
    ] {
        let mix = format!("[[mix]]\nplayers = 3\ncards = 2\nweight = {weight}\n");
        fs::write(dir.path().join("mix.toml"), mix).unwrap();
        let ended = ended(dir.path(), "selfplay --config mix.toml", Stdio::null());
        let said = format!("mix.weight is {is}; it must be above 0, at most 1000000000\n");
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.ends_with(&said), "{}", ended.stderr);
    }
}

#[test]
fn relative_paths_in_a_file_start_from_its_folder() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("conf")).unwrap();
    let small = Weights::seeded(3, Shape::new(4, 1, 4).unwrap());
    small.save(&at("conf/net.safetensors")).unwrap();
    let table =
        "players = 3\ncards = 1\nsimulations = 2\nworkers = 0\nin_flight = 1\nbackend = \"cpu\"\n";
    let settings = format!("weights = \"net.safetensors\"\nout = \"played\"\nrounds = 2\n{table}");
    fs::write(at("conf/settings.toml"), settings).unwrap();
    let spec = format!(
        "[base]\n{table}[grid]\nweights = [\"net.safetensors\"]\n[trial]\nseconds = 0\n\
        rounds = 2\nrepetitions = 1\n"
    );
    fs::write(at("conf/spec.toml"), spec).unwrap();
    let sound = |arguments: &str| {
        let ended = ended(dir.path(), arguments, Stdio::null());
        assert_eq!(ended.code, Some(0), "{arguments}: {}", ended.stderr);
    };
    sound("selfplay --config conf/settings.toml");
    let manifest = Manifest::read(&at("conf/played")).unwrap();
    let kept = Path::new(manifest.notes["weights"].as_str().unwrap());
    assert!(kept.is_absolute());
    assert_eq!(Weights::load(kept).unwrap(), small);
    sound("sweep conf/spec.toml --out swept");
    // What it found can be played from anywhere.
    fs::create_dir(at("elsewhere")).unwrap();
    sound("selfplay --config swept/best.toml --rounds 2 --out elsewhere/best");
    for (file, arguments) in [
        ("weights = \"~/net.safetensors\"", "selfplay --config"),
        ("out = \"~/replay\"", "selfplay --config"),
        ("[grid]\nweights = [\"~/net.safetensors\"]", "sweep"),
    ] {
        fs::write(at("home.toml"), file).unwrap();
        let ended = ended(dir.path(), &format!("{arguments} home.toml"), Stdio::null());
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(2), 1));
        assert!(
            ended.stderr.contains("write the whole path"),
            "{}",
            ended.stderr
        );
    }
}
