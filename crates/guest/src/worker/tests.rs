use std::io;
use std::sync::Arc;

use kiln_disk::{Disk, Error, FileOffset, FileSource, Limits};
use kiln_testkit::flat::Flat;

use super::answer;
use super::wire::{Heard, MAX_READ, Relayed, Said, Task, receive, send};
use crate::facts::Depth;
use crate::look::{Question, look};

/// What an error is in the other process.
fn relayed(error: Error) -> Error {
    let mut bytes = Vec::new();
    send(&mut bytes, &Heard::Failed(Relayed::from(error))).unwrap();
    match receive(&mut bytes.as_slice()).unwrap() {
        Heard::Failed(error) => error.into(),
        _ => panic!("another message"),
    }
}

#[test]
fn errors_say_the_same_in_the_other_process() {
    let enospc = || io::Error::from_raw_os_error(libc::ENOSPC);
    let make: [&dyn Fn() -> Error; 6] = [
        &|| Error::io("read", "disk.raw", enospc()),
        &|| Error::Io {
            operation: "read",
            target: "x".to_owned(),
            at: Some(FileOffset::new(7)),
            source: enospc(),
        },
        &|| Error::io("read", "y", io::Error::other("of our own making")),
        &|| Error::Unsupported { code: "a.b", feature: "c \"d\"\n".to_owned(), hint: "e" },
        &|| Error::Refused {
            code: "a.b",
            what: "bytes".to_owned(),
            asked: u64::MAX,
            allowed: 1,
            hint: "less",
        },
        &|| Error::Cancelled,
    ];
    for make in make {
        let (here, there) = (make(), relayed(make()));
        assert_eq!(here.to_string(), there.to_string());
        assert_eq!((here.code(), here.hint(), here.offset()), (there.code(), there.hint(), there.offset()));
    }
    // What is wrong with a file keeps its code and its hint, over two ways as over one.
    let stated = Error::Malformed {
        structure: "a header",
        at: FileOffset::new(9),
        problem: Box::new(super::wire::Stated {
            code: "a.b",
            words: "is wrong".to_owned(),
            hint: Some("look"),
        }),
    };
    let text = stated.to_string();
    let there = relayed(relayed(stated));
    assert_eq!((there.to_string(), there.code(), there.hint()), (text, "a.b", Some("look")));
}

#[test]
fn message_that_is_too_long_cut_or_no_message_is_an_error_and_costs_nothing() {
    let mut announced = &[0xff, 0xff, 0xff, 0xff, b'{'][..];
    assert_eq!(receive::<Said>(&mut announced).err().unwrap().kind(), io::ErrorKind::InvalidData);
    let mut cut = &[0xff, 0xff, 0xff, 0x03, b'{'][..];
    assert_eq!(receive::<Said>(&mut cut).err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    let mut other = &[2, 0, 0, 0, b'{', b'}'][..];
    assert_eq!(receive::<Said>(&mut other).err().unwrap().kind(), io::ErrorKind::InvalidData);
}

/// The worker may be under the command of the disk that it reads: whatever it says, this process answers or stops.
#[test]
fn no_word_of_a_worker_is_more_than_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4 << 20).unwrap();
    let disks: [Arc<dyn Disk>; 1] = [Arc::new(Flat(FileSource::open(file.path()).unwrap()))];
    let question = Question { depth: Depth::Full, limits: Limits::INSPECT, asked: Vec::new() };
    let mut said = Vec::new();
    for (disk, at, len) in [(0, 0, 512), (0, 4 << 20, 1), (0, u64::MAX, MAX_READ), (0, 1 << 20, 0)] {
        send(&mut said, &Said::Read { disk, at, len }).unwrap();
    }
    send(&mut said, &Said::Looked(Box::new(look(&disks, &question).unwrap()))).unwrap();
    let task = Task::Look { disks: vec![4 << 20], question };
    let heard = |mut said: &[u8]| {
        let mut sent = Vec::new();
        let spoken = answer(&mut said, &mut sent, &disks, &task);
        (matches!(spoken, Ok(Said::Looked(_))), sent.len())
    };
    let (whole, sent) = heard(&said);
    assert!(whole);
    let (mut state, mut survived) = (7_u64, 0);
    for round in 0..1_500 {
        let mut other = said.clone();
        for _ in 0..=round % 3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(state >> 33).unwrap() % other.len();
            other[at] = state.to_le_bytes()[2];
        }
        let (answered, bytes) = heard(&other);
        survived += u32::from(answered);
        // No more is read for it than it may ask for at once, for each of its words.
        assert!(bytes <= sent + 7 * usize::try_from(MAX_READ).unwrap());
    }
    assert!((1..1_500).contains(&survived), "{survived}");
    for len in (0..said.len()).step_by(5) {
        assert!(!heard(&said[..len]).0);
    }
    let mut beyond = Vec::new();
    send(&mut beyond, &Said::Read { disk: 1, at: 0, len: 1 }).unwrap();
    assert_eq!(
        answer(&mut beyond.as_slice(), &mut Vec::new(), &disks, &task).err().unwrap().kind(),
        io::ErrorKind::InvalidData
    );
}
