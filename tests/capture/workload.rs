//! Programs that rely on what they were promised: a list of synced numbers on three file systems in lock step, and a
//! SQLite bank on each. Captured at random moments, then looked at by a guest of its own that mounts what was captured.

use kiln_catalog::Consistency;
use serde_json::Value;

use super::live::{micro, moment, nodes};
use super::*;

const KINDS: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// A hundred accounts with a thousand each.
const MONEY: u64 = 100_000;
/// Disks that one guest can look at.
const LOOKS: usize = 21;

/// A captured disk, and what had been promised before.
struct Shot {
    name: String,
    number: usize,
    disk: usize,
    frozen: bool,
    acked: u64,
    moved: u64,
    /// What had been promised when the capture was over.
    behind: u64,
}

/// What a guest found on a disk: numbers from 1 on, lines in all, transfers, money, what SQLite's check said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    numbers: u64,
    lines: u64,
    moved: u64,
    money: u64,
    check: String,
}

/// The last transfer that was said to be committed.
fn moved(console: &str, disk: usize) -> u64 {
    let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let begin = format!("BANK {disk} ");
    let number = |line: &str| line.trim_end().strip_prefix(&begin)?.parse().ok();
    whole.lines().rev().find_map(number).unwrap_or(0)
}

fn captures_of_three(count: usize) {
    let sandbox = Sandbox::new();
    let images = KINDS.map(|kind| micro(&sandbox, kind));
    let vm = Instance::new(&sandbox, &images.iter().collect::<Vec<_>>());
    let words = format!("kiln.mode=work kiln.fs={} kiln.agent=qemu", KINDS.join(","));
    let mut guest = vm.start_full(&sandbox, &words);
    guest.wait_for_ack(3);
    for disk in 0..KINDS.len() {
        guest.wait_for(&format!("BANK {disk} 2"));
    }
    let mut shots = Vec::new();
    let (mut frozen_ms, mut freezes) = (0, 0);
    for number in 0..count {
        std::thread::sleep(moment(number));
        let console = guest.console();
        let acked = guest.acked();
        let name = format!("shot{number}");
        let one = format!("disk{}", number % KINDS.len());
        // One disk as it is, or all at one point in time with the guest standing still.
        let frozen = number % 4 == 3;
        let which = if frozen { ["--all-disks", "--quiesce=require"] } else { ["--disk", &one] };
        let mut words = vec!["capture", "vm", "--name", &name, "--json"];
        words.extend(which);
        if !frozen {
            words.extend(["--quiesce", "none"]);
        }
        let answer = sandbox.kiln(words).exits(0).json("kiln.capture.v1");
        let behind = guest.acked();
        if frozen {
            assert_eq!(answer["consistency"], "filesystem", "{answer}");
            frozen_ms = frozen_ms.max(answer["frozen_ms"].as_u64().unwrap());
            freezes += 1;
        }
        for image in answer["images"].as_array().unwrap() {
            let disk = disk_of(image);
            let name = image["name"].as_str().unwrap().to_owned();
            shots.push(Shot { name, number, disk, frozen, acked, moved: moved(&console, disk), behind });
        }
    }
    assert!(!nodes(&vm).iter().any(|name| name.starts_with("kiln-")));
    let console = guest.console();
    assert!(!console.contains("WRITE ERROR") && !console.contains("Error"), "{console}");
    guest.kill();
    sandbox.kiln(["store", "fsck", "--read-data"]).ok();
    assert_tidy(&sandbox);
    for (round, shots) in shots.chunks(LOOKS).enumerate() {
        judge(&sandbox, round, shots);
    }
    println!(
        "{count} of {count} captures ({} disks: {}) hold what was promised; {freezes} with the guest standing still for \
         at most {frozen_ms} ms, which show it with replay forbidden and three disks in step",
        shots.len(),
        KINDS.join(", ")
    );
}

fn disk_of(image: &Value) -> usize {
    let disk = image["capture"]["source"]["disk"].as_str();
    let disk = disk.unwrap_or_else(|| panic!("{image}"));
    disk.trim_start_matches("disk").parse().unwrap()
}

/// Lets a guest look at captured disks, first with replay forbidden, and holds that against what was promised.
fn judge(sandbox: &Sandbox, round: usize, shots: &[Shot]) {
    let dir = sandbox.path(&format!("look{round}"));
    std::fs::create_dir(&dir).unwrap();
    let store = store(sandbox);
    let disks = shots.iter().enumerate().map(|(place, shot)| {
        let image = store.find(&shot.name).unwrap();
        let consistency = image.provenance.capture.as_ref().unwrap().consistency;
        assert_eq!(consistency == Consistency::Filesystem, shot.frozen, "{}", shot.name);
        let overlay = dir.join(format!("{place}.qcow2"));
        let words = ["create", "-q", "-f", "qcow2", overlay.to_str().unwrap(), &image.disk_bytes.to_string()];
        sandbox.tool("qemu-img", words);
        let layers = image.layers.iter().map(|layer| store.layer_path(layer)).collect();
        Disk { id: format!("disk{place}"), overlay, layers }
    });
    let kinds: Vec<&str> = shots.iter().map(|shot| KINDS[shot.disk]).collect();
    let words = format!("kiln.mode=audit kiln.fs={} kiln.agent=none", kinds.join(","));
    let start = Start { dir: dir.clone(), disks: disks.collect(), words, foreign: false, full: true };
    let mut guest = Guest::start(&start).unwrap();
    guest.wait_for("AUDITED");
    let console = guest.console();
    guest.kill();
    let held = |place: usize, how: &str| {
        let begin = format!("AUDIT {place} {how} ");
        let line = console.lines().find_map(|line| line.trim_end().strip_prefix(&begin));
        line.and_then(parse).unwrap_or_else(|| panic!("{} {how}: {line:?}\n{console}", shots[place].name))
    };
    let mut before: Option<(usize, u64)> = None;
    for (place, shot) in shots.iter().enumerate() {
        let replayed = held(place, "replayed");
        let about = format!(
            "{} ({}): {} acknowledged, {} moved before; {replayed:?}",
            shot.name, KINDS[shot.disk], shot.acked, shot.moved
        );
        println!("{about}");
        assert!(shot.acked <= replayed.numbers && replayed.numbers <= shot.behind + 1, "{about}");
        // A last line that was not synced yet.
        assert!(replayed.lines <= replayed.numbers + 1, "{about}");
        assert!(shot.moved <= replayed.moved, "{about}");
        assert_eq!((replayed.money, replayed.check.as_str()), (MONEY, "ok"), "{about}");
        if !shot.frozen {
            continue;
        }
        let unreplayed = held(place, "unreplayed");
        assert_eq!(unreplayed, replayed, "{about}: with replay forbidden");
        // The disks are written in their order: no later one is ahead, and none is more than a step behind.
        if let Some((number, numbers)) = before
            && number == shot.number
        {
            assert!(replayed.numbers <= numbers && numbers <= replayed.numbers + 1, "{about}: torn apart");
        }
        before = Some((shot.number, replayed.numbers));
    }
}

fn parse(line: &str) -> Option<Held> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [numbers, lines, moved, money, check] = words.as_slice() else { return None };
    Some(Held {
        numbers: numbers.parse().ok()?,
        lines: lines.parse().ok()?,
        moved: moved.parse().ok()?,
        money: money.parse().ok()?,
        check: (*check).to_owned(),
    })
}

/// 20 captures in CI, 50 of `make torture`, any number by `KILN_CAPTURES`.
#[test]
#[ignore = "e2e: minutes of a writing guest"]
fn programs_on_three_file_systems_find_what_they_were_promised() {
    let count = if crate::torture::whole() { 50 } else { 20 };
    captures_of_three(live::captures(count));
}
