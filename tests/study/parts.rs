//! What studies rest on, by itself: statistics, tables and plots, the comparison's report, a
//! sweep's journal, the folders.

use ringmaster::measure::report::{
    Axis, Bar, Column, Coordinate, Heat, Page, Polyline, Table, bars, heat, parallel, scatter,
};
use ringmaster::measure::scratch::{Destination, Scratch, put_in_place};
use ringmaster::measure::stats::{Estimate, estimate, quantile, quantile_unsorted, short};
use ringmaster::measure::sweep::{self, Keys, Spec, Summary, TrialEntry, TrialJournal, check};
use ringmaster::measure::{Agreement, compare};
use ringmaster::network::{BackendKind, Limits, Shape, Weights, open};
use ringmaster::settings::Settings;
use std::fs::{self, OpenOptions};
use std::io::Write;

#[test]
fn intervals_by_rank() {
    assert!(estimate(&[]).is_none());
    let three = estimate(&[3.0, 1.0, 2.0]).unwrap();
    assert_eq!((three.median, three.low, three.high), (2.0, 1.0, 3.0));
    assert!((three.coverage - 0.75).abs() < 1e-12);
    let ten: Vec<f64> = (0..10).map(f64::from).collect();
    let ten = estimate(&ten).unwrap();
    // The textbook interval for n = 10: second to ninth value, 97.9 %.
    assert_eq!((ten.low, ten.high), (1.0, 8.0));
    assert!((ten.coverage - 0.9785).abs() < 1e-4);
    assert_eq!(estimate(&[4.0]).unwrap().coverage, 0.0);
}

#[test]
fn quantiles_between_neighbours() {
    assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
    assert_eq!(quantile(&[], 0.5), 0.0);
    assert_eq!(quantile_unsorted(&[4.0, 1.0, 2.0], 0.5), 2.0);
}

#[test]
fn numbers_for_people() {
    let shown = [0.0, 1234567.0, 99.96, 0.0213, -2500.0, 0.000001].map(short);
    assert_eq!(
        shown,
        ["0", "1,234,567", "100.0", "0.0213", "-2,500", "1.0e-6"]
    );
}

#[test]
fn a_table_is_lined_up_and_escaped() {
    let table = Table {
        columns: vec![Column::text("what"), Column::number("rate", "per s")],
        rows: vec![
            vec!["a<b".into(), "1".into()],
            vec!["other".into(), "1,000".into()],
        ],
    };
    let text = "what    rate\n       per s\na<b        1\nother  1,000\n";
    assert_eq!(table.to_text(), text);
    let mut page = Page::new("a title");
    page.table(&table);
    assert!(
        page.finish()
            .contains("<td class=\"left\">a&lt;b</td><td>1</td>")
    );
}

#[test]
fn axes_end_beyond_the_greatest_value() {
    for most in [0.0, 0.013, 1.0, 7.3, 99.0, 100.0, 123_456.0] {
        let axis = Axis::fitting([most].into_iter());
        let ticks = axis.ticks.len();
        assert!(
            axis.ticks[ticks - 1] >= most && (2..=8).contains(&ticks),
            "{most}"
        );
    }
    let axis = Axis::fitting([3.0, 4000.0].into_iter());
    assert!(axis.ticks == [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
    assert_eq!((axis.place(1.0), axis.place(10_000.0)), (0.0, 1.0));
}

const LONG: &str = "a name that is far longer than a plot is wide, and more, and yet more";

fn between(median: f64, low: f64, high: f64) -> Estimate {
    Estimate {
        median,
        low,
        high,
        coverage: 0.75,
        count: 3,
    }
}

/// That nothing is cut off is asserted as it is drawn.
#[test]
fn plots_hold_names_and_numbers_of_any_length() {
    for scale in [1e-6, 1.0, 399_999.0, 1e9] {
        let bar = |value: f64| Bar {
            label: LONG.into(),
            value: between(value * scale, value * scale / 2.0, value * scale * 1.01),
            colour: 1,
        };
        let items = [1.0, 0.3, 0.0].map(bar);
        let point = |x: f64| (x * scale, between(scale / x, scale / x / 2.0, scale / x));
        let points = [1.0, 3.0, 100.0].map(point);
        for plot in [
            bars(LONG, LONG.into(), LONG, &items),
            scatter(LONG, LONG.into(), [LONG, LONG], &points, &points[1..]),
        ] {
            let svg = plot.svg;
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.contains("whisker") && svg.contains('…'), "{svg}");
        }
    }
    let below = String::new;
    let empty = [
        bars("none", below(), "", &[]),
        scatter("none", below(), ["", ""], &[], &[]),
        parallel("", below(), &[], &[]),
    ];
    assert!(empty.iter().all(|plot| !plot.svg.contains("NaN")));
    let item = Bar {
        label: "a <b> & c".into(),
        value: between(3.0, 3.0, 3.0),
        colour: 7,
    };
    let svg = bars("t", below(), "rounds/min", &[item]).svg;
    assert!(svg.contains("a &lt;b&gt; &amp; c") && svg.contains("rounds/min"));
}

#[test]
fn a_map_holds_every_value() {
    let map = |name: &str, columns: usize, cells: &[Option<f64>]| Heat {
        across: name.into(),
        columns: vec![name.into(); columns],
        down: name.into(),
        rows: vec![name.into(); cells.len() / columns],
        cells: cells.chunks(columns).map(<[_]>::to_vec).collect(),
    };
    let draw = |map: Heat| heat("t", String::new(), &map).svg;
    let svg = draw(map("x", 2, &[Some(123_456.0), None]));
    assert!(svg.contains("123,456") && svg.contains('–') && !svg.contains("NaN"));
    let svg = draw(map(LONG, 10, &[Some(123_456.0); 100]));
    assert_eq!(svg.matches(">123k<").count(), 100);
}

#[test]
fn every_line_runs_through_every_coordinate_and_the_best_is_on_top() {
    let coordinate = |name: &str| Coordinate {
        name: name.into(),
        marks: vec![(0.0, "a<b".into()), (1.0, LONG.into())],
        shared: true,
    };
    let line = |chosen, label: &str| Polyline {
        places: vec![0.0, 1.0],
        chosen,
        label: label.into(),
    };
    let lines = [line(true, "best"), line(false, "worst")];
    let coordinates = [coordinate("x"), coordinate(LONG)];
    let svg = parallel("t", String::new(), &coordinates, &lines).svg;
    assert!(svg.contains("a&lt;b") && !svg.contains("NaN"));
    let at = |label: &str| svg.find(&format!("<title>{label}</title>"));
    assert!(at("worst") < at("best") && at("worst").is_some());
    let drawn = svg.split("<path d=\"M").skip(1);
    let steps = drawn.map(|path| path.split('"').next().map(|d| d.matches('L').count()));
    assert!(
        steps.eq([Some(1); 2]),
        "from coordinate to coordinate, each"
    );
}

fn row(number: u32, repetition: usize, decision_ms: Option<f64>) -> compare::ModeRow {
    compare::ModeRow {
        number,
        mode: format!("mode {number}"),
        repetition,
        rounds_per_min: 60.0,
        evaluations_per_s: 1000.0,
        decision_ms_p50: decision_ms,
        decision_ms_p99: decision_ms,
        ..compare::ModeRow::default()
    }
}

#[test]
fn repetitions_without_a_decision_are_not_measured() {
    // Not measured in this table, or with the 0 of an earlier one.
    for nothing in [None, Some(0.0)] {
        let rows = [
            row(1, 1, Some(1901.0)),
            row(1, 2, nothing),
            row(1, 3, Some(3539.0)),
            row(2, 1, nothing),
        ];
        let (page, table) = (compare::page(&rows), compare::table(&rows));
        assert!(page.contains("2,720 (1,901 to 3,539)"), "{page}");
        assert!(page.contains("; not measured: 2 mode 2"), "{page}");
        assert!(table.contains("In 2 runs no decision finished"), "{table}");
        let (_, price) = table.split_once("at what price").unwrap();
        let second = price
            .lines()
            .find(|line| line.starts_with("2 mode 2"))
            .unwrap();
        let second: Vec<&str> = second.split_whitespace().collect();
        assert_eq!(second[3..6], ["-", "-", "-"], "{table}");
    }
}

#[test]
fn an_empty_cell_of_a_table_is_no_figure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compare.csv");
    let rows = [row(1, 1, None), row(1, 2, Some(5.0))];
    let mut table = csv::Writer::from_path(&path).unwrap();
    rows.iter().for_each(|row| table.serialize(row).unwrap());
    table.flush().unwrap();
    assert_eq!(compare::read_csv(&[path]).unwrap(), rows);
}

fn entry(key: &str, failed: Option<&str>) -> TrialEntry {
    TrialEntry {
        key: key.into(),
        repetition: 1,
        values: vec!["4".into()],
        failed: failed.map(str::to_owned),
        report: serde_json::json!({"rounds": 3}),
        policy_distance: None,
    }
}

#[test]
fn a_line_cut_short_is_dropped_and_a_second_sweep_kept_out() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("trials.jsonl");
    let mut journal = TrialJournal::open(&path).unwrap();
    assert!(TrialJournal::open(&path).is_err());
    journal.push(entry("a", None)).unwrap();
    drop(journal);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"key\":\"b\",\"repe").unwrap();
    drop(file);
    let mut journal = TrialJournal::open(&path).unwrap();
    assert_eq!(journal.entries, [entry("a", None)]);
    assert_eq!(journal.find("a"), Some(&entry("a", None)));
    journal.push(entry("c", None)).unwrap();
    drop(journal);
    let journal = TrialJournal::open(&path).unwrap();
    assert_eq!(journal.entries.len(), 2);
    assert!(journal.is_done("a") && journal.is_done("c"));
    drop(journal);
    // The second is somebody's file that only has this name.
    let somebodys = "{\"thesis\": 1}";
    for (text, says) in [
        ("no json\n", "line 1 is damaged"),
        (somebodys, "no journal of a sweep"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = TrialJournal::open(&path).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), somebodys.as_bytes());
}

#[test]
fn a_trial_that_failed_is_not_done_until_it_does_not() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("trials.jsonl");
    let mut journal = TrialJournal::open(&path).unwrap();
    journal.push(entry("a", Some("hung"))).unwrap();
    assert!(journal.find("a").is_some() && !journal.is_done("a"));
    journal.push(entry("a", None)).unwrap();
    assert!(journal.is_done("a"));
    drop(journal);
    assert!(TrialJournal::open(&path).unwrap().is_done("a"));
}

#[test]
fn keys_tell_settings_and_repetitions_apart() {
    let mut keys = Keys::new().unwrap();
    let settings = Settings::default();
    let other = Settings {
        seed: 1,
        ..settings.clone()
    };
    let mut key = |settings, repetition| keys.key(settings, repetition).unwrap();
    let all = [key(&settings, 1), key(&settings, 2), key(&other, 1)];
    assert_eq!(all[0], key(&settings, 1));
    assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
}

#[test]
fn only_marked_scratch_of_the_dead_is_removed() {
    let within = tempfile::tempdir().unwrap();
    let living = Scratch::new(within.path()).unwrap();
    // As a kill leaves it: with its mark, and nobody who holds the lock.
    let dead = within.path().join("ringmaster-scratch-dead");
    fs::create_dir_all(dead.join("0000/replay")).unwrap();
    fs::write(dead.join(".ringmaster"), "").unwrap();
    let others = ["ringmaster-scratch-mine", "work", "stamps"].map(|name| {
        let folder = within.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("thesis"), "x").unwrap();
        folder
    });
    let link = within.path().join("ringmaster-scratch-link");
    std::os::unix::fs::symlink(&others[1], &link).unwrap();
    let second = Scratch::new(within.path()).unwrap();
    assert!(!dead.exists() && living.path().exists() && link.exists());
    assert!(others.iter().all(|folder| folder.join("thesis").exists()));
    let [first, second] = [living, second].map(|scratch| {
        fs::write(scratch.path().join("x"), "").unwrap();
        scratch.path().to_owned()
    });
    assert!(!first.exists() && !second.exists());
}

#[test]
fn results_replace_those_of_an_earlier_study_and_nothing_else() {
    let within = tempfile::tempdir().unwrap();
    let wanted = within.path().join("stamps");
    let made = |files: &[&str]| {
        let made = tempfile::tempdir_in(within.path()).unwrap().keep();
        files
            .iter()
            .for_each(|file| fs::write(made.join(file), "").unwrap());
        made
    };
    let put = |files: &[&str]| put_in_place(&made(files), &wanted).unwrap();
    assert_eq!(put(&["a.csv", "b.csv"]), wanted);
    assert_eq!(put(&["a.csv"]), wanted);
    assert!(!wanted.join("b.csv").exists(), "of an earlier study");
    fs::write(wanted.join("thesis"), "x").unwrap();
    let beside = within.path().join("stamps-2");
    assert_eq!(put(&["a.csv"]), beside);
    assert_eq!(put(&["a.csv", "c.csv"]), beside);
    assert_eq!(fs::read(wanted.join("thesis")).unwrap(), b"x");
    assert!(beside.join("c.csv").exists());
}

#[test]
fn a_folder_has_one_study_at_a_time() {
    let within = tempfile::tempdir().unwrap();
    let named = Destination::Named(within.path().join("compare"));
    let first = named.claim().unwrap();
    let refused = named.claim().unwrap_err().to_string();
    assert!(refused.contains("another study is at work"), "{refused}");
    drop(first);
    assert_eq!(named.claim().unwrap().path(), within.path().join("compare"));
}

#[test]
fn a_page_has_every_plot_and_each_its_unit() {
    let spec: Spec = toml::from_str(
        "[grid]\nworkers = [1, 2]\nparking = [\"park\", \"poll\"]\n[random]\nsamples = 24\n\
         [random.space]\nin_flight = { low = 16, high = 1024, log = true }\n\
         max_wait_us = [0, 2000, 5000]\n[best]\nmetric = \"evaluations_per_s\"",
    )
    .unwrap();
    let checked = check(spec).unwrap();
    let summaries: Vec<Summary> = (0..checked.combinations.len())
        .map(|combination| Summary {
            combination,
            // Some that failed, some that scatter.
            metric: (combination % 7 > 0).then_some(Estimate {
                median: 1000.0 - combination as f64,
                low: 900.0 - combination as f64,
                high: 1100.0,
                coverage: 0.75,
                count: 3,
            }),
            batch_mean: (1 + combination) as f64,
            remark: String::new(),
        })
        .collect();
    let page = sweep::page(&checked, &[], &summaries);
    let figures: Vec<&str> = page.split("<figure>").skip(1).collect();
    let caption = |figure: &str| {
        let (_, after) = figure.split_once("<figcaption>").unwrap();
        after.split_once("<small>").unwrap().0.to_owned()
    };
    let captions: Vec<String> = figures.iter().map(|figure| caption(figure)).collect();
    assert_eq!(
        captions,
        [
            "evaluations_per_s against batch",
            "evaluations_per_s, best first",
            "All settings at once",
            "parking by workers",
            "parking by in_flight",
            "parking by max_wait_us",
            "workers by in_flight",
            "workers by max_wait_us",
            "in_flight by max_wait_us",
        ],
        "a map for each pair"
    );
    let unit = "unique evaluations per second";
    assert!(figures.iter().all(|figure| figure.contains(unit)));
    assert!(figures[0].contains("whisker") && figures[1].contains("whisker"));
    let measured = summaries.iter().filter(|summary| summary.metric.is_some());
    assert_eq!(
        figures[2].matches("fill=\"none\"").count(),
        measured.count()
    );
    assert!(figures[2].contains("in_flight") && figures[2].contains(">poll<"));
    // Two dozen draws are six ranges, and the best of all is in some cell.
    assert_eq!(figures[4].matches('\u{2265}').count(), 6);
    assert!(figures[4].contains(">999<"));
}

#[test]
fn a_network_agrees_with_itself_and_not_with_another() {
    let limits = Limits {
        threads: 1,
        max_batch: 50,
        gpu_memory_mib: 0,
    };
    let cpu = |seed| {
        let shape = Shape::new(16, 1, 16).expect("in range");
        open(BackendKind::Cpu, &Weights::seeded(seed, shape), limits).expect("one thread")
    };
    let measure = |tried, other| {
        Agreement::measure(cpu(tried).as_mut(), cpu(other).as_mut(), 120, 50).expect("computes")
    };
    let same = measure(1, 1);
    assert_eq!(
        (same.rows, same.finite, same.top1_agreement),
        (120, true, 1.0)
    );
    assert_eq!(
        (same.policy_max_difference, same.value_max_difference),
        (0.0, 0.0)
    );
    let other = measure(1, 2);
    assert!(other.policy_max_difference > 0.01 && other.value_max_difference > 0.01);
    assert!(other.finite && other.top1_agreement < 1.0);
}
