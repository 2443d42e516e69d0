//! The table of settings: every setting has its row, what a row says holds, and
//! `docs/settings.md` says what the rows say. `UPDATE_DOCS=1 cargo test --test settings` writes the
//! tables there anew.

// The lint knows tests only by their attribute; their helpers may unwrap too.
#![allow(clippy::unwrap_used)]

use ringmaster::settings::{
    Allowed, Determines, MixEntry, Row, Settings, SettingsError, cores, rows,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// All that can be set is.
fn full() -> Settings {
    let path = || Some(PathBuf::from("place"));
    Settings {
        rounds: Some(1),
        weights: path(),
        out: path(),
        trace: path(),
        mix: vec![MixEntry {
            players: 4,
            cards: 5,
            weight: 1.0,
        }],
        ..Settings::default()
    }
}

/// As a file has them, in which numbers are as short as people write them; with a mix of one table,
/// if this is a setting of mixes.
fn in_file(settings: &Settings, key: &str) -> Value {
    let text = serde_json::to_string(settings).unwrap();
    let mut stored: Value = serde_json::from_str(&text).unwrap();
    if key.starts_with("mix.") {
        stored["mix"] = serde_json::to_value(full().mix).unwrap();
    }
    stored
}

/// The place of a setting in what is stored.
fn pointer(key: &str) -> String {
    format!("/{}", key.replace("mix.", "mix/0/").replace('.', "/"))
}

/// The default settings but for one, as they come from a file or a flag.
fn with(key: &str, value: &Value) -> Result<Settings, SettingsError> {
    let mut told = in_file(&Settings::default(), key);
    match told.pointer_mut(&pointer(key)) {
        Some(place) => *place = value.clone(),
        None => told[key] = value.clone(),
    }
    let section = key.split('.').next().unwrap();
    let told = Map::from_iter([(section.to_owned(), told[section].take())]);
    Settings::default().with(told)
}

/// The keys of settings as serde has them, those of sections after their names.
fn keys(settings: &Settings) -> BTreeSet<String> {
    let all = serde_json::to_value(settings).unwrap();
    let mut keys = BTreeSet::new();
    for (key, value) in all.as_object().unwrap() {
        let section = value.get(0).unwrap_or(value);
        match section.as_object() {
            Some(section) => keys.extend(section.keys().map(|name| format!("{key}.{name}"))),
            None => drop(keys.insert(key.clone())),
        }
    }
    keys
}

#[test]
fn every_setting_has_its_row() {
    let of_rows: Vec<String> = rows().map(|row| row.key.to_owned()).collect();
    let unique: BTreeSet<String> = of_rows.iter().cloned().collect();
    assert_eq!(unique.len(), of_rows.len(), "a row stands twice");
    assert_eq!(unique, keys(&full()));
    // One that is left out of `full` would be missing here: serde knows of all.
    let unknown = serde_json::from_value::<Settings>(json!({ "bananas": 1 }));
    let said = unknown.unwrap_err().to_string();
    for name in said.split('`').skip(3).step_by(2) {
        let is_known = |key: &String| key.split('.').next() == Some(name);
        assert!(unique.iter().any(is_known), "{name} has no row");
    }
}

#[test]
fn a_setting_takes_what_its_row_allows_and_nothing_else() {
    // Bounded by others, too.
    let depends = [
        "rounds",
        "games",
        "cards",
        "simulations",
        "warm_up_s",
        "mix.cards",
    ];
    for row in rows() {
        let told = |value: &Value| {
            let settings = with(row.key, value)?;
            let text = serde_json::to_string(&settings).unwrap();
            let stored: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                stored.pointer(&pointer(row.key)),
                Some(value),
                "{}",
                row.key
            );
            settings.check()
        };
        let (good, bad): (Vec<Value>, Vec<Value>) = match row.allowed {
            Allowed::Count(low, high) => (
                vec![low.into(), high.into()],
                vec![low.wrapping_sub(1).into(), high.wrapping_add(1).into()],
            ),
            Allowed::Number(low, high) => (
                vec![low.into(), high.into()],
                vec![(low - 0.1).into(), (high + 1.0).into()],
            ),
            Allowed::Path => (vec!["nets".into()], vec!["~/nets".into()]),
            Allowed::Choice(words) => (
                words().iter().map(|word| word.get_name().into()).collect(),
                vec![],
            ),
            Allowed::Truth => (vec![true.into()], vec![]),
        };
        for value in good {
            let sound = depends.contains(&row.key) || told(&value).is_ok();
            assert!(sound, "{} is {value}", row.key);
        }
        for value in bad {
            // 0 may have a meaning of its own; 64 bits hold no more than the whole range.
            let has_meaning = value == 0 && !row.zero.is_empty();
            if has_meaning || matches!(row.allowed, Allowed::Count(0, u64::MAX)) {
                continue;
            }
            if matches!(row.allowed, Allowed::Count(0, _)) && value == u64::MAX {
                continue;
            }
            let Err(refused) = told(&value) else {
                panic!("{} is {value}", row.key);
            };
            let said = refused.to_string();
            // The players and cards of a mix are refused as those of any table.
            let name = row.key.trim_start_matches("mix.");
            let is_named = said.contains(&row.name()) || said.contains(name);
            assert!(is_named && said.lines().count() == 1, "{}: {said}", row.key);
        }
    }
}

#[test]
fn a_number_that_is_none_is_refused() {
    for number in [f32::NAN, f32::INFINITY, -0.001, 1000.5] {
        let mut settings = Settings::default();
        settings.search.c_puct = number;
        let said = settings.check().unwrap_err().to_string();
        let is = if number.is_finite() {
            number.to_string()
        } else {
            "no finite number".into()
        };
        assert_eq!(said, format!("search.c_puct is {is}; it must be 0 to 1000"));
    }
    let mut settings = full();
    for weight in [f64::NAN, 0.0, 2e9] {
        settings.mix[0].weight = weight;
        let said = settings.check().unwrap_err().to_string();
        assert!(said.contains("above 0, at most 1000000000"), "{said}");
    }
}

#[test]
fn all_paths_start_from_the_folder_of_their_file() {
    let moved = serde_json::to_value(full().from_folder(Path::new("/there"))).unwrap();
    for row in rows().filter(|row| matches!(row.allowed, Allowed::Path)) {
        assert_eq!(moved[row.key], "/there/place", "{}", row.key);
    }
}

/// What replays are compared by must not change, or no older one could be gone on with.
#[test]
fn what_is_compared_on_resume_is_what_it_was() {
    let stored = json!({
        "backend": "auto", "cards": 5, "games": 0, "gpu_memory_mib": 0, "hang_timeout_s": 30,
        "in_flight": 0, "leaves": 1, "max_batch": 512, "max_restarts": 10, "max_wait_us": 0,
        "parking": "park", "players": 4, "reload_s": 1.0, "rounds": 0,
        "rules": {
            "dealer_restriction": true, "missed_bid_scores_tricks": false, "trump": "rotating"
        },
        "search": {
            "c_puct": 1.5, "fpu_reduction": 0.2f32, "noise_alpha": 0.5, "noise_fraction": 0.25,
            "temperature_end": 0.25, "temperature_start": 1.0, "virtual_loss": 1.0
        },
        "seconds": 0.0, "seed": 0, "simulations": 30, "threads": 0, "trace_every": 64,
        "warm_up_s": 0.0, "workers": 0, "worlds": 3, "worlds_in_flight": 0
    });
    let determining = Settings::default().determining();
    assert_eq!(serde_json::to_value(&determining).unwrap(), stored);
    assert_eq!(
        serde_json::from_value::<Settings>(stored).unwrap(),
        determining
    );

    // Each is compared or not as its row says.
    for row in rows() {
        let before = in_file(&Settings::default(), row.key);
        let default = before.pointer(&pointer(row.key)).cloned();
        let default = default.unwrap_or_default();
        let value: Value = match row.allowed {
            // As many workers as cores is the default.
            Allowed::Count(..) => if default == 7 { 6 } else { 7 }.into(),
            Allowed::Number(..) => 2.5.into(),
            Allowed::Path => "place".into(),
            Allowed::Choice(words) => words()[1].get_name().into(),
            Allowed::Truth => (default == false).into(),
        };
        let before: Settings = serde_json::from_value(before).unwrap();
        let other = with(row.key, &value).unwrap();
        assert_ne!(other, before, "{}", row.key);
        let is_compared = row.determines == Determines::Yes || row.key == "games";
        let differs = other.determining() != before.determining();
        assert_eq!(differs, is_compared, "{}", row.key);
    }
}

#[test]
fn the_batch_that_is_chosen_follows_from_the_network() {
    let chosen = |multiply_adds: usize| {
        let settings = Settings::default().choose_batch(multiply_adds).resolve();
        (settings.max_batch, settings.in_flight)
    };
    let usual = Settings::default().resolve();
    assert_eq!(chosen(1), (usual.max_batch, usual.in_flight));
    let (batch, in_flight) = chosen(usize::MAX);
    assert_eq!(batch, 16);
    assert!(in_flight < usual.in_flight, "fewer leaves are under way");
    // Whatever the machine, less than a second of it.
    let wide = 400_000_000;
    let (batch, _) = chosen(wide);
    assert!(batch == 16 || (batch * wide) as f64 <= 8e9 * cores() as f64);
    let given = Settings {
        max_batch: 8192,
        ..Settings::default()
    };
    assert_eq!(given.choose_batch(usize::MAX).resolve().max_batch, 8192);
}

#[test]
fn what_is_far_beyond_the_cores_is_said_and_threads_are_bounded() {
    let most = 4 * cores();
    let with = |threads, workers| Settings {
        threads,
        workers,
        ..Settings::default()
    };
    assert!(with(most, most).notes().is_empty());
    assert!(with(0, 0).notes().is_empty());
    let notes = with(most + 1, most + 2).notes();
    assert!(notes[0].starts_with(&format!("threads is {} on ", most + 1)));
    assert!(notes[0].contains(&format!(": {most} are used")));
    assert!(notes[1].starts_with(&format!("workers is {} on ", most + 2)));
    assert_eq!(with(1024, 1).resolve().threads, 1024.min(most));
}

/// The line of a setting in `docs/settings.md`.
fn line(row: &Row) -> String {
    let key = match row.key.split_once('.') {
        Some(("mix", name)) => format!("[[mix]] {name}"),
        Some((section, name)) => format!("[{section}] {name}"),
        None => row.key.to_owned(),
    };
    let flag = match row.has_flag() {
        true => format!("`--{}`", row.name()),
        false => String::new(),
    };
    let determines = match row.determines {
        Determines::Yes => "yes",
        Determines::No => "no",
        Determines::Partly(what) => what,
    };
    let (default, range, what) = (row.default(), row.range(), row.what);
    format!("| `{key}` | {flag} | {default} | {range} | {determines} | {what} |\n")
}

#[test]
fn the_docs_say_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut written = String::new();
    let mut group = "";
    for line_of_file in text.split_inclusive('\n') {
        if let Some(heading) = line_of_file.strip_prefix("## ") {
            group = heading.trim();
        }
        match line_of_file {
            other if !other.starts_with('|') => written += other,
            head if head.starts_with("| key") => {
                written += "| key in the file | flag | default | range | determines | what |\n";
                written += "|---|---|---|---|---|---|\n";
                written.extend(rows().filter(|row| row.group == group).map(line));
            }
            _ => {}
        }
    }
    for row in rows() {
        assert!(
            written.contains(&line(row)),
            "no table under `## {}`",
            row.group
        );
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(&path, written).unwrap();
    }
    assert!(
        text == written,
        "UPDATE_DOCS=1 cargo test --test settings writes docs/settings.md"
    );
}
