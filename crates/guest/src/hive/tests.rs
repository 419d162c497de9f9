use super::*;

/// A hive of cells as they are given; the first is the root.
fn hive(cells: &[Vec<u8>]) -> (Vec<u8>, Vec<u32>) {
    let (mut body, mut places) = (vec![0; 32], Vec::new());
    body[..4].copy_from_slice(b"hbin");
    for cell in cells {
        let size = (cell.len() + 4).next_multiple_of(8);
        places.push(body.len() as u32);
        body.extend_from_slice(&(-(size as i32)).to_le_bytes());
        body.extend_from_slice(cell);
        body.resize(places.last().copied().unwrap() as usize + size, 0);
    }
    body.resize(body.len().next_multiple_of(4096), 0);
    let mut head = vec![0; 4096];
    head[..4].copy_from_slice(b"regf");
    head[36..40].copy_from_slice(&32_u32.to_le_bytes());
    head[40..44].copy_from_slice(&(body.len() as u32).to_le_bytes());
    seal(&mut head);
    ([head, body].concat(), places)
}

fn seal(head: &mut [u8]) {
    let sum = head[..508].chunks_exact(4).fold(0, |sum, word| sum ^ le32(word, 0).unwrap());
    head[508..512].copy_from_slice(&sum.to_le_bytes());
}

fn key(name: &str, subkeys: (u32, u32), values: (u32, u32)) -> Vec<u8> {
    let mut cell = vec![0; 76];
    cell[..4].copy_from_slice(&[b'n', b'k', 0x20, 0]);
    for (at, word) in [(20, subkeys.0), (28, subkeys.1), (36, values.0), (40, values.1)] {
        cell[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    cell[72..74].copy_from_slice(&(name.len() as u16).to_le_bytes());
    cell.extend_from_slice(name.as_bytes());
    cell
}

fn list(magic: &[u8; 2], places: &[u32]) -> Vec<u8> {
    let mut cell = [&magic[..], &(places.len() as u16).to_le_bytes()].concat();
    for place in places {
        cell.extend_from_slice(&place.to_le_bytes());
        if magic == b"lf" {
            cell.extend_from_slice(b"hint");
        }
    }
    cell
}

#[test]
fn key_that_is_its_own_child_is_followed_as_far_as_the_path_goes() {
    // The root is at 32, 88 bytes long; its list behind it names the root.
    let (bytes, places) = hive(&[key("ROOT", (1, 120), (0, 0)), list(b"lf", &[32])]);
    assert_eq!(places, [32, 120]);
    let hive = Hive::open(bytes.as_slice()).unwrap();
    let path = "root\\".repeat(100);
    assert_eq!(hive.key(&path).unwrap().unwrap().name, "ROOT");
    assert!(hive.key("root\\other").unwrap().is_none());
    // However often it is asked, it ends.
    let endless = "root\\".repeat(1 << 20);
    assert_eq!(hive.key(&endless).unwrap_err(), Fault::Budget);
}

#[test]
fn lists_that_lie_are_faults() {
    let open = |cells: &[Vec<u8>]| {
        let (bytes, _) = hive(cells);
        let hive = Hive::open(bytes.as_slice())?;
        hive.key("x")
    };
    let root = |at| key("ROOT", (1, at), (0, 0));
    // A list of lists in itself; more entries than bytes; a place behind the hive; a value in place of a list.
    let wrong: [(Vec<u8>, &str); 4] = [
        (list(b"ri", &[120]), "is a list of lists in another"),
        ([b"lf".as_slice(), &[0xff, 0xff], &[0; 8]].concat(), "is shorter than its list"),
        (list(b"li", &[0xffff_fff0]), "lies behind the hive"),
        (b"vk__________".to_vec(), "holds no list of keys"),
    ];
    for (cell, why) in wrong {
        let answer = open(&[root(120), cell]);
        assert!(matches!(answer, Err(Fault::Cell { why: said, .. }) if said == why), "{answer:?}: {why}");
    }
    assert!(matches!(open(&[root(4)]), Err(Fault::Cell { .. })));
    // Four thousand million keys are said to be there: the list decides.
    assert!(open(&[key("ROOT", (u32::MAX, 120), (0, 0)), list(b"li", &[])]).unwrap().is_none());
}

#[test]
fn lists_of_lists_and_values_in_pieces_are_read() {
    let data = |len: usize, byte: u8| vec![byte; len];
    let vk = |size: u32, at: u32| {
        let mut cell = vec![b'v', b'k', 3, 0];
        for word in [size, at, 3, 1] {
            cell.extend_from_slice(&word.to_le_bytes());
        }
        [cell.as_slice(), b"Big"].concat()
    };
    let places_of = |places: &[u32]| places.iter().flat_map(|place| place.to_le_bytes()).collect::<Vec<u8>>();
    // Twice: places are only known when all is laid out.
    let mut at = vec![0; 12];
    for _ in 0..2 {
        let cells = [
            key("ROOT", (3, at[1]), (1, at[7])),
            list(b"ri", &[at[2], at[3]]),
            list(b"lf", &[at[4], at[5]]),
            list(b"li", &[at[6]]),
            key("One", (0, 0), (0, 0)),
            key("Two", (0, 0), (0, 0)),
            key("Three", (0, 0), (0, 0)),
            places_of(&[at[8]]),
            vk(20000, at[9]),
            [b"db\x02\0".as_slice(), &places_of(&[at[10], 0])].concat(),
            places_of(&[at[11], at[11] + 16352]),
            data(16344, 1),
            data(3700, 2),
        ];
        at = hive(&cells).1;
        let (bytes, places) = hive(&cells);
        if places == at && at[1] != 0 {
            let hive = Hive::open(bytes.as_slice()).unwrap();
            let Ok(root) = hive.root() else { continue };
            let Ok(keys) = hive.subkeys(&root) else { continue };
            let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
            assert_eq!(names, ["One", "Two", "Three"]);
            assert_eq!(hive.key("THREE").unwrap().unwrap().name, "Three");
            let value = hive.value(&root, "big").unwrap().unwrap();
            assert_eq!(value.data.len(), 20000);
            assert_eq!((value.data[16343], value.data[16344], value.data[19999]), (1, 2, 2));
            return;
        }
    }
    panic!("the layout did not settle");
}

#[test]
fn cells_of_no_length_free_ones_and_long_ones_are_faults() {
    let (good, _) = hive(&[key("ROOT", (0, 0), (0, 0))]);
    for (size, why) in [
        (0_i32, "is not in use"),
        (88, "is not in use"),
        (-4, "has a length that leaves the hive"),
        (-8192, "has a length that leaves the hive"),
        (i32::MIN, "has a length that leaves the hive"),
    ] {
        let mut bytes = good.clone();
        bytes[4128..4132].copy_from_slice(&size.to_le_bytes());
        let answer = Hive::open(bytes.as_slice()).err();
        assert_eq!(answer, Some(Fault::Cell { at: 4128, why }), "{size}");
    }
    for len in [0, 3, 4, 511, 512, 4095, 4096, 4100] {
        assert!(Hive::open(&good[..len]).is_err(), "{len}");
    }
    let mut bytes = good.clone();
    bytes[100] ^= 1;
    assert_eq!(Hive::open(bytes.as_slice()).err(), Some(Fault::Checksum));
    bytes[4] = 7;
    seal(&mut bytes[..4096]);
    assert!(Hive::open(bytes.as_slice()).unwrap().is_dirty());
    assert!(!Hive::open(good.as_slice()).unwrap().is_dirty());
}

#[test]
fn every_mutant_is_an_answer() {
    let value = |name: &str, size: u32, at: u32, kind: u32| {
        let mut cell = vec![b'v', b'k', name.len() as u8, 0];
        for word in [size, at, kind, 1] {
            cell.extend_from_slice(&word.to_le_bytes());
        }
        cell.extend_from_slice(name.as_bytes());
        cell
    };
    // Root, its list, a key with two values, one in place and one elsewhere.
    let cells = [
        key("ROOT", (1, 120), (0, 0)),
        list(b"lf", &[136]),
        key("Select", (0, 0), (2, 224)),
        list(b"li", &[])[..0]
            .iter()
            .copied()
            .chain([232_u32, 264].into_iter().flat_map(u32::to_le_bytes))
            .collect(),
        value("Current", 0x8000_0004, 1, 4),
        value("Text", 6, 296, 1),
        "ab\0".encode_utf16().flat_map(u16::to_le_bytes).collect(),
    ];
    let (mut bytes, places) = hive(&cells);
    // Correct the places that the layout gave.
    let fix = |bytes: &mut Vec<u8>, at: u32, field: usize, to: u32| {
        let at = 4096 + at as usize + 4 + field;
        bytes[at..at + 4].copy_from_slice(&to.to_le_bytes());
    };
    fix(&mut bytes, places[0], 28, places[1]);
    fix(&mut bytes, places[1], 4, places[2]);
    fix(&mut bytes, places[2], 40, places[3]);
    fix(&mut bytes, places[3], 0, places[4]);
    fix(&mut bytes, places[3], 4, places[5]);
    fix(&mut bytes, places[5], 8, places[6]);
    let read = |bytes: &[u8]| {
        let hive = Hive::open(bytes)?;
        let Some(key) = hive.key("select")? else { return Ok(None) };
        let number = hive.value(&key, "CURRENT")?.and_then(|value| value.number());
        let text = hive.value(&key, "text")?.and_then(|value| value.text());
        Ok::<_, Fault>(Some((number, text)))
    };
    assert_eq!(read(&bytes).unwrap(), Some((Some(1), Some("ab".to_owned()))));
    for at in (0..44).chain(4096..4096 + 400) {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bad = bytes.clone();
            bad[at] = value;
            seal(&mut bad[..4096]);
            let _ = read(&bad);
        }
    }
}

/// Hives of all kinds of circles, in a thread with a stack as small as `ulimit -s 256` leaves it.
#[test]
fn deep_paths_and_circles_need_no_stack() {
    let work = || {
        let (bytes, _) = hive(&[key("ROOT", (1, 120), (0, 0)), list(b"lf", &[32])]);
        let hive = Hive::open(bytes.as_slice()).unwrap();
        // Half of what is read of a hive is a list, half is a key.
        assert_eq!(hive.key(&"root\\".repeat(100_000)).unwrap().unwrap().name, "ROOT");
        let root = hive.root().unwrap();
        assert_eq!(hive.subkeys(&root).unwrap().len(), 1);
    };
    let small = std::thread::Builder::new().stack_size(256 << 10);
    small.spawn(work).unwrap().join().unwrap();
    for magic in [b"li", b"lf", b"lh", b"ri"] {
        // Each kind of list, in a list of lists that names it a thousand times.
        let inner = list(if magic == b"lh" { b"lf" } else { magic }, &[32]);
        let inner = if magic == b"lh" { [b"lh", &inner[2..]].concat() } else { inner };
        let (_, places) = hive(&[key("ROOT", (1, 120), (0, 0)), vec![0; 4100], inner.clone()]);
        let outer = list(b"ri", &vec![places[2]; 1000]);
        let mut padded = outer;
        padded.resize(4100, 0);
        let (bytes, _) = hive(&[key("ROOT", (1, 120), (0, 0)), padded, inner]);
        let hive = Hive::open(bytes.as_slice()).unwrap();
        let answer = hive.subkeys(&hive.root().unwrap()).map(|keys| keys.len());
        let expected = match magic {
            b"ri" => Err(Fault::Cell { at: place(places[2]), why: "is a list of lists in another" }),
            _ => Ok(1000),
        };
        assert_eq!(answer, expected, "{magic:?}");
    }
}

#[test]
fn values_that_lie_are_faults_and_values_of_all_are_as_many_as_asked_for() {
    let value = |name: &str, size: u32, at: u32| {
        let mut cell = vec![b'v', b'k', name.len() as u8, 0];
        for word in [size, at, 4, 1] {
            cell.extend_from_slice(&word.to_le_bytes());
        }
        cell.extend_from_slice(name.as_bytes());
        cell
    };
    let places = [224_u32, 256];
    let cells = |first: Vec<u8>, count: u32| {
        [
            key("ROOT", (0, 0), (count, 120)),
            places.iter().flat_map(|place| place.to_le_bytes()).collect(),
            vec![0; 84],
            first,
            value("b", 0x8000_0004, 2),
        ]
    };
    let all = |cells: &[Vec<u8>], limit: usize| {
        let (bytes, at) = hive(cells);
        assert_eq!(at[3..], places);
        let hive = Hive::open(bytes.as_slice())?;
        let values = hive.values(&hive.root()?, limit)?;
        Ok::<_, Fault>(values.into_iter().map(|(name, value)| (name, value.number())).collect::<Vec<_>>())
    };
    let good = value("a", 0x8000_0004, 1);
    let both = vec![("a".to_owned(), Some(1)), ("b".to_owned(), Some(2))];
    assert_eq!(all(&cells(good.clone(), 2), 9).unwrap(), both);
    assert_eq!(all(&cells(good.clone(), 2), 1).unwrap(), both[..1]);
    // As many values as there can be: the list's cell decides.
    assert_eq!(all(&cells(good.clone(), u32::MAX), 2).unwrap(), both);
    let behind = all(&cells(value("a", 4, 0xffff_fff0), 2), 9).unwrap_err();
    assert_eq!(behind, Fault::Cell { at: place(0xffff_fff0), why: "lies behind the hive" });
    let mut long = good;
    long[2..4].copy_from_slice(&[0xff, 0xff]);
    let at = place(places[0]);
    assert_eq!(all(&cells(long, 2), 9).unwrap_err(), Fault::Cell { at, why: "has a name that leaves it" });
}
