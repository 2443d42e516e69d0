//! A death costs one decision: what a worker has finished of its rounds in flight is taken up by
//! its successor. On tables in this process, ended between any two answers; and on real runs whose
//! workers are killed.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;
#[path = "support/mod.rs"]
mod support;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use ringmaster::engine::regions::{Regions, load_counts};
use ringmaster::engine::unfinished::UnfinishedJobs;
use ringmaster::fault::Fault;
use ringmaster::game::Phase;
use ringmaster::play::{DecisionJournal, Job, JobPort, JobsInFlight, PlayStats, journal_room};
use ringmaster::replay::RoundRecord;
use ringmaster::settings::{MixEntry, Settings};
use ringmaster::shm::{HeapWords, Journal, JournalPlace, Segment, journal_entry_words};
use ringmaster::wire::{Reply, Request};
use run::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A worker's surroundings without processes: jobs are handed out, records noted by round,
/// decisions kept.
struct Surroundings {
    jobs: Vec<Job>,
    leaves: Vec<Request>,
    records: BTreeMap<u64, RoundRecord>,
    writer: DecisionJournal<HeapWords>,
    /// The same journal, as somebody else sees it.
    journal: Journal<HeapWords>,
}

impl JobPort for Surroundings {
    type Error = Fault;

    fn next_job(&mut self) -> Result<Option<Job>, Fault> {
        Ok(self.jobs.pop())
    }

    fn send(&mut self, request: &Request) -> Result<bool, Fault> {
        self.leaves.push(*request);
        Ok(true)
    }

    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, Fault> {
        let before = self.records.insert(record.round, record.clone());
        assert!(before.is_none_or(|before| before == *record));
        Ok(true)
    }

    fn journaled(&mut self, job: &Job) -> &[u64] {
        self.writer.read(job)
    }

    fn journal_round(&mut self, entry: u32, words: &[u64]) {
        self.writer.begin_round(entry, words);
    }

    fn journal_decision(&mut self, entry: u32, words: &[u64]) {
        self.writer.add_decision(entry, words);
    }
}

impl Surroundings {
    fn new(settings: &Settings) -> Surroundings {
        let (entries, room) = (settings.jobs() as usize, journal_room(settings));
        let sides = if settings.games > 0 { 2 } else { 1 };
        let memory = HeapWords::zeroed(entries * journal_entry_words(room, sides));
        let journal = || Journal::new(memory.clone(), entries, room, sides);
        Surroundings {
            jobs: Vec::new(),
            leaves: Vec::new(),
            records: BTreeMap::new(),
            writer: DecisionJournal::new(journal()),
            journal: journal(),
        }
    }

    /// Hands out all jobs that are not done.
    fn hand_out(&mut self, settings: &Settings) {
        let per_job = settings.rounds_per_job();
        let is_done = |job: &u64| self.records.contains_key(&((job + 1) * per_job - 1));
        let jobs = (0..settings.jobs()).filter(|job| !is_done(job));
        self.jobs = jobs
            .map(|number| Job {
                number,
                network: 0,
                entry: number as u32,
            })
            .collect();
    }

    /// Plays by a worker that dies after so many answers: did it live to the end, and what it has
    /// counted.
    fn play(&mut self, settings: &Settings, answers: usize) -> (bool, PlayStats) {
        self.leaves.clear();
        self.hand_out(settings);
        let mut jobs = JobsInFlight::new(settings).unwrap();
        jobs.step(self).unwrap();
        for _ in 0..answers {
            let Some(request) = self.leaves.pop() else {
                return (true, jobs.stats());
            };
            let reply = Reply {
                ticket: request.ticket,
                evaluation: support::scrambled(&request.position),
            };
            jobs.apply(&reply).unwrap();
            jobs.step(self).unwrap();
        }
        (false, jobs.stats())
    }
}

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings {
        rounds: Some(6),
        worlds: 2,
        simulations: 12,
        in_flight: 4,
        workers: 1,
        seed: 5,
        ..Settings::default()
    };
    change(&mut settings);
    settings.check().unwrap();
    settings.resolve()
}

/// Rounds, games, a mix, several leaves in flight.
fn cases() -> [Settings; 4] {
    let entry = |players, cards| MixEntry {
        players,
        cards,
        weight: 1.0,
    };
    [
        settings(|_| {}),
        settings(|settings| {
            (settings.games, settings.players, settings.cards) = (2, 3, 3);
        }),
        settings(|settings| settings.mix = vec![entry(3, 9), entry(8, 2), entry(4, 1)]),
        settings(|settings| (settings.leaves, settings.cards) = (3, 7)),
    ]
}

#[test]
fn tables_go_on_where_a_predecessor_died() {
    for settings in cases() {
        let mut undisturbed = Surroundings::new(&settings);
        let (done, calm) = undisturbed.play(&settings, usize::MAX);
        assert!(done && undisturbed.records.len() as u64 == settings.planned_rounds());
        for life in [1, 7, 60, 333] {
            let mut surroundings = Surroundings::new(&settings);
            let (mut deaths, mut counts) = (0, PlayStats::default());
            // A life too short for any decision would go on for ever: each is longer than the one
            // before.
            loop {
                let (done, counted) = surroundings.play(&settings, life + 10 * deaths);
                counts += counted;
                if done {
                    break;
                }
                deaths += 1;
            }
            assert!(
                deaths > 0,
                "the lives of {life} answers are too long for a test"
            );
            assert_eq!(surroundings.records, undisturbed.records);
            // Of each table one decision, and no more than the network was ever asked for in one.
            let decision = settings.search().root_visits() as usize + 1;
            let most = calm.search.evaluations + (deaths * settings.in_flight * decision) as u64;
            assert!(
                counts.search.evaluations <= most,
                "{} > {most}",
                counts.search.evaluations
            );
            // A round's evaluations are those of all who played it, wherever it was delivered.
            assert_eq!(counts.rounds, calm.rounds);
            assert_eq!(counts.round_evaluations, calm.round_evaluations);
            // Nobody's moves are counted twice.
            assert!(
                counts.moves <= calm.moves,
                "{} > {}",
                counts.moves,
                calm.moves
            );
        }
    }
}

#[test]
fn a_successor_begins_with_few_tables_and_soon_plays_all() {
    let settings = settings(|settings| (settings.in_flight, settings.rounds) = (16, Some(40)));
    let mut surroundings = Surroundings::new(&settings);
    let playing = |surroundings: &mut Surroundings, answers: usize| {
        surroundings.leaves.clear();
        surroundings.hand_out(&settings);
        let mut jobs = JobsInFlight::new(&settings).unwrap();
        jobs.step(surroundings).unwrap();
        let at_first = jobs.playing();
        for _ in 0..answers {
            let request = surroundings.leaves.pop().unwrap();
            let reply = Reply {
                ticket: request.ticket,
                evaluation: support::scrambled(&request.position),
            };
            jobs.apply(&reply).unwrap();
            jobs.step(surroundings).unwrap();
        }
        (at_first, jobs.playing())
    };
    // Long enough for as many decisions as there are tables, and not for half of the rounds.
    assert_eq!(playing(&mut surroundings, 1200), (16, 16));
    assert_eq!(playing(&mut surroundings, 1200), (2, 16));
}

#[test]
fn what_was_not_kept_of_this_job_is_not_taken_up() {
    let settings = settings(|_| {});
    let mut undisturbed = Surroundings::new(&settings);
    undisturbed.play(&settings, usize::MAX);
    let mut surroundings = Surroundings::new(&settings);
    surroundings.play(&settings, 1500);
    let entries: Vec<Vec<u64>> = (0..settings.jobs() as usize)
        .map(|entry| {
            let mut words = Vec::new();
            surroundings.journal.read(entry, &mut words);
            words
        })
        .collect();
    assert!(entries.iter().any(|words| words.len() > 20));
    // Other rounds' entries, and entries that are cut anywhere, or go on behind their end.
    for shift in 1..entries.len() {
        for cut in [0, 1, 3, 5, 7, usize::MAX] {
            let mut surroundings = Surroundings::new(&settings);
            for entry in 0..entries.len() {
                let of = (entry + if cut == usize::MAX { 0 } else { shift }) % entries.len();
                let mut words = entries[of].clone();
                words.truncate(cut);
                if cut == usize::MAX {
                    let room = journal_room(&settings);
                    words.extend(vec![1; shift.min(room - words.len())]);
                }
                let mut place = JournalPlace::default();
                surroundings.journal.begin(entry, &mut place, &words);
            }
            let (done, _) = surroundings.play(&settings, usize::MAX);
            assert!(done);
            assert_eq!(surroundings.records, undisturbed.records);
        }
    }
}

#[test]
fn the_longest_rounds_fit() {
    for (players, cards) in [(3, 17), (4, 13), (8, 6), (3, 1)] {
        let settings = settings(|settings| {
            (settings.players, settings.cards) = (players, cards);
            (settings.rounds, settings.worlds, settings.simulations) = (Some(2), 1, 2);
        });
        // `keep_decision` asserts that there is room.
        let mut surroundings = Surroundings::new(&settings);
        let (done, _) = surroundings.play(&settings, usize::MAX);
        assert!(done && surroundings.records.len() == 2);
        let played = surroundings.records[&0].replay().unwrap();
        assert_eq!(played.decisions[0].before.phase(), Phase::Bidding);
    }
}

/// Rounds of many decisions, so that a worker that took nothing up would lose many of each.
const LONG: &str = "--players 3 --cards 17 --worlds 2 --simulations 60 --in-flight 6 --seed 3";

/// A look at what the workers of a run have counted.
struct Counted {
    segment: Segment,
    regions: Regions,
}

impl Counted {
    fn of(running: &Running) -> Counted {
        let (segment, _, regions) = segment_of(running);
        Counted { segment, regions }
    }

    /// Moves that this worker's present process has made.
    fn moves(&self, worker: usize) -> u64 {
        let counters = self.regions.workers[worker].counters;
        load_counts(&self.segment.counters(counters).unwrap()).moves
    }
}

/// Kills worker 0 as often as this, each time after it has made so many moves.
fn kill_again_and_again(running: &mut Running, deaths: usize, moves: u64) {
    let said = running.listen();
    let counted = Counted::of(running);
    let mut last = None;
    for death in 1..=deaths {
        let mut worker = None;
        wait_until("moves", || {
            // Its counters begin at 0 before it is started.
            worker = worker_of(running.pid(), 0).filter(|_| counted.moves(0) >= moves);
            (worker.is_some() && worker != last) || running.has_ended()
        });
        assert!(!running.has_ended(), "death {death}: {}", said.text());
        last = worker;
        send(worker.unwrap(), SIGKILL);
    }
}

#[test]
fn a_death_costs_a_decision_of_each_round_in_flight() {
    let place = Place::new();
    let flags = format!("{LONG} --rounds 60 --workers 1");
    let calm = place.play(&place.out("calm"), &flags);
    let deaths = 8;
    let mut running = place.start(&place.out("deaths"), &flags, "");
    kill_again_and_again(&mut running, deaths, 120);
    let report = running.finish().report();
    assert_eq!(report["digest"], calm["digest"]);
    assert_eq!(report["restarts"], deaths);
    let decisions = |report: &serde_json::Value| report["decisions"].as_u64().unwrap();
    let more = decisions(&report).saturating_sub(decisions(&calm));
    // Six rounds in flight, a decision each. Without what was kept it would be some twenty of each.
    assert!(more <= 6 * deaths as u64, "{more} decisions more");
}

#[test]
fn only_deaths_without_a_decision_in_between_count() {
    let place = Place::new();
    let out = place.out("patient");
    let settings = place.config("max_restarts = 2\n");
    let flags = format!("{LONG} --rounds 6 --workers 1 {settings}");
    let mut running = place.start(&out, &flags, "");
    // A round takes 3 bids and 51 cards, so none of the six is done by then.
    kill_again_and_again(&mut running, 8, 6);
    assert_eq!(running.finish().report()["restarts"], 8);
}

#[test]
fn a_run_that_loses_a_process_every_third_of_a_second_gets_on() {
    let place = Place::new();
    let flags = format!("{LONG} --rounds 250 --workers 2");
    let calm = place.play(&place.out("calm"), &flags);
    // With the bound on restarts that users have.
    let out = place.out("deaths");
    let mut running = place.start(&out, &flags, "");
    let said = running.listen();
    running.wait_for_children(3);
    let mut deaths = 0;
    while deaths < 15 && !running.has_ended() {
        std::thread::sleep(Duration::from_millis(300));
        // Evaluator, worker, worker, as they come.
        if let Some(&victim) = running.children().get(deaths % 3) {
            send(victim, SIGKILL);
            deaths += 1;
        }
    }
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", said.text());
    assert_eq!(ended.report()["digest"], calm["digest"]);
    assert!(deaths > 10, "the run is too short to tell: {deaths} deaths");
}

/// The file in which a run that was ended leaves what it had in hand.
fn in_hand_of(out: &Path) -> PathBuf {
    out.join("in-hand")
}

fn copy_without_in_hand(replay: &Path, copy: &Path) {
    fs::create_dir(copy).unwrap();
    for entry in fs::read_dir(replay).unwrap().flatten() {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    fs::remove_file(in_hand_of(copy)).unwrap();
}

#[test]
fn a_run_that_was_ended_goes_on_in_the_middle_of_its_rounds() {
    let place = Place::new();
    for (name, flags) in [
        ("rounds", format!("{LONG} --rounds 12 --workers 2")),
        (
            "games",
            LONG.replace("--cards 17", "--cards 5") + " --games 6 --workers 2",
        ),
    ] {
        let calm = place.play(&place.out(&format!("{name}-calm")), &flags);
        let out = place.out(name);
        let running = place.start(&out, &flags, "");
        let counted = Counted::of(&running);
        wait_until("moves", || counted.moves(0) > 90 && counted.moves(1) > 90);
        send(running.pid(), SIGTERM);
        let ended = running.finish();
        assert_eq!(ended.code, Some(130), "{name}: {}", ended.stderr);
        assert!(in_hand_of(&out).exists(), "{name}");
        let first = ended.report();
        let second = place.play(&out, &format!("{flags} --resume"));
        assert_eq!(second["digest"], calm["digest"], "{name}");
        assert!(
            !in_hand_of(&out).exists(),
            "{name}: what was in hand is done"
        );
        let decisions = |report: &serde_json::Value| report["decisions"].as_u64().unwrap();
        // Of each job in flight a decision that was searched and not finished.
        let both = decisions(&first) + decisions(&second);
        assert!(
            both <= decisions(&calm) + 12,
            "{name}: {both} of {}",
            calm["decisions"]
        );
    }
}

#[test]
fn what_was_in_hand_may_be_gone_spoilt_or_of_another_network() {
    let place = Place::new();
    let flags = format!("{LONG} --rounds 8 --workers 1");
    let calm = place.play(&place.out("calm"), &flags);
    let out = place.out("ended");
    let running = place.start(&out, &flags, "");
    let counted = Counted::of(&running);
    wait_until("moves", || counted.moves(0) > 60);
    send(running.pid(), SIGTERM);
    assert_eq!(running.finish().code, Some(130));
    let file = in_hand_of(&out);
    let whole = fs::read(&file).unwrap();
    let mut spoilt = whole.clone();
    spoilt[whole.len() / 2] ^= 1;
    let mut lying = UnfinishedJobs::default();
    // Sound words about rounds that are none: no such network, no such visits, no such job.
    for job in 0..9 {
        let visits = u64::from(u32::MAX) << 32 | 7;
        lying.add(
            job,
            &[&[job, job / 4, 0, 0, 1][..], &[visits; 40][..]].concat(),
        );
    }
    let lying = lying.to_bytes();
    for (what, bytes) in [
        ("gone", None),
        ("spoilt", Some(&spoilt)),
        ("lying", Some(&lying)),
    ] {
        let copy = place.out(what);
        copy_without_in_hand(&out, &copy);
        if let Some(bytes) = bytes {
            fs::write(in_hand_of(&copy), bytes).unwrap();
        }
        let report = place.play(&copy, &format!("{flags} --resume"));
        assert_eq!(report["digest"], calm["digest"], "{what}");
        assert_eq!(verify(&copy)["digest"], calm["digest"], "{what}");
    }
    // Other weights that play the rounds not yet begun take nothing up that the first ones found.
    let other = place.out("other.safetensors");
    let mut command = ringmaster();
    command.args([
        "weights", "init", "--seed", "2", "--width", "16", "--depth", "1",
    ]);
    command.args(["--ffn", "16", "--out"]).arg(&other);
    assert!(command.output().unwrap().status.success());
    let appended = |out: &Path| {
        let mut command = ringmaster();
        command
            .arg("selfplay")
            .args(flags.split(' '))
            .args(["--append", "--json", "--weights"]);
        let output = command.arg(&other).arg("--out").arg(out).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        verify(out)["digest"].clone()
    };
    let without = place.out("without");
    copy_without_in_hand(&out, &without);
    assert_eq!(appended(&out), appended(&without));
}

fn some_jobs() -> UnfinishedJobs {
    let mut jobs = UnfinishedJobs::default();
    jobs.add(7, &[1, u64::MAX, 3]);
    jobs.add(2, &[9]);
    jobs.add(3, &[]);
    jobs
}

#[test]
fn what_is_left_comes_back_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(UnfinishedJobs::load(dir.path()), UnfinishedJobs::default());
    some_jobs().save(dir.path()).unwrap();
    let mut found = UnfinishedJobs::load(dir.path());
    assert_eq!(found, some_jobs());
    assert_eq!(found.take(7), Some(vec![1, u64::MAX, 3]));
    assert_eq!((found.take(7), found.take(3)), (None, None));
    UnfinishedJobs::default().save(dir.path()).unwrap();
    assert!(!dir.path().join("in-hand").exists());
}

#[test]
fn a_file_that_is_not_ours_stays() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in-hand"), "a shopping list").unwrap();
    assert_eq!(UnfinishedJobs::load(dir.path()), UnfinishedJobs::default());
    UnfinishedJobs::default().save(dir.path()).unwrap();
    assert!(dir.path().join("in-hand").exists());
}

#[test]
fn no_damaged_file_is_believed() {
    let whole = some_jobs().to_bytes();
    assert_eq!(UnfinishedJobs::parse(&whole), Some(some_jobs()));
    for length in 0..whole.len() {
        assert_eq!(
            UnfinishedJobs::parse(&whole[..length]),
            None,
            "cut at {length}"
        );
    }
    for bit in 0..8 * whole.len() {
        let mut spoilt = whole.clone();
        spoilt[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(UnfinishedJobs::parse(&spoilt), None, "bit {bit}");
    }
    // Lengths that lie, under a checksum that does not.
    for count in [4, u64::MAX] {
        let words = [7, count, 1, 2, 3];
        let mut bytes = whole[..8].to_vec();
        bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
        bytes.extend(u64::from(crc32fast::hash(&bytes)).to_le_bytes());
        assert_eq!(UnfinishedJobs::parse(&bytes), None);
    }
}
