use std::io;

use kiln_disk::{Error, FileOffset};

use super::wire::{Heard, Relayed, Said, receive, send};

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
