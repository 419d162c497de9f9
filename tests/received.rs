//! Images from pipes and servers: one pass, the same image as from a file; a download that is cut resumes, one that
//! is altered is refused, and neither leaves anything in the catalog.

use std::process::Stdio;
use std::time::{Duration, Instant};

use kiln_testkit::http::{Fault, Served, Server};
use serde_json::{Value, json};

use crate::support::{Ran, Sandbox, names_in};

/// Name, command that makes it of `disk.raw`, whether a server lets it be stored as it comes, and whether a pipe does.
const FORMS: [(&str, &str, bool, bool); 15] = [
    ("disk.raw", "cat disk.raw", true, false),
    ("disk.raw.gz", "gzip -1 -c disk.raw", true, false),
    ("disk.raw.xz", "xz -0 -T2 --block-size=4MiB -c disk.raw", true, false),
    ("disk.raw.zst", "zstd -q -c disk.raw", true, true),
    ("disk.raw.bz2", "bzip2 -1 -c disk.raw", false, false),
    ("disk.raw.lz4", "lz4 -q -c --content-size disk.raw", true, true),
    ("disk.vmdk", "cat stream.vmdk", true, true),
    ("disk.vmdk.gz", "gzip -1 -c stream.vmdk", true, true),
    ("disk.qcow2", "cat disk.qcow2", true, true),
    ("disk.qcow2.gz", "gzip -1 -c disk.qcow2", true, true),
    ("small.qcow2.xz", "xz -0 -c small.qcow2", true, true),
    ("used.qcow2", "cat used.qcow2", false, false),
    ("gcp.tar.gz", "tar --format=oldgnu -Sczf - disk.raw", true, true),
    ("plain.tar", "tar -cf - disk.raw", true, true),
    ("box.tar.zst", "tar -cf - disk.qcow2 | zstd -q -c", false, false),
];

/// A disk of 24 MiB with some data, whose partition table tells where it ends.
fn small_disk(sandbox: &Sandbox) {
    sandbox.disk("disk.raw", 24 << 20);
    sandbox.tool("sgdisk", ["--clear", "--new=1:2048:40959", "disk.raw"]);
}

/// The same disk as a machine may leave it: the end of the disk at the beginning of the file, and with a snapshot, whose
/// list is not where a stream could tell.
fn used(sandbox: &Sandbox) {
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "used.qcow2", "24M"]);
    let disk = std::fs::read(sandbox.path("disk.raw")).unwrap();
    sandbox.tool("qemu-img", ["snapshot", "-c", "x", "used.qcow2"]);
    for (number, part) in disk.chunks(1 << 20).enumerate().rev() {
        std::fs::write(sandbox.path("part"), part).unwrap();
        let write = format!("write -s part {}M {}", number, part.len());
        sandbox.tool("qemu-io", ["-f", "qcow2", "-c", &write, "used.qcow2"]);
    }
    std::fs::remove_file(sandbox.path("part")).unwrap();
}

/// The disk in this form.
fn form(sandbox: &Sandbox, name: &str) {
    if !sandbox.path("disk.raw").exists() {
        small_disk(sandbox);
    }
    if name.contains("qcow2") && !sandbox.path("disk.qcow2").exists() {
        sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    }
    if name.starts_with("small") && !sandbox.path("small.qcow2").exists() {
        sandbox.tool("qemu-img", ["convert", "-c", "-O", "qcow2", "disk.raw", "small.qcow2"]);
    }
    if name.starts_with("used") && !sandbox.path("used.qcow2").exists() {
        used(sandbox);
    }
    if name.contains("vmdk") && !sandbox.path("stream.vmdk").exists() {
        let words =
            ["convert", "-q", "-O", "vmdk", "-o", "subformat=streamOptimized", "disk.raw", "stream.vmdk"];
        sandbox.kiln(words).exits(0);
    }
    let (_, command, ..) = FORMS.into_iter().find(|(known, ..)| *known == name).unwrap();
    if !sandbox.path(name).exists() {
        sandbox.tool("sh", ["-c", &format!("{command} > {name}")]);
    }
}

fn sha256(sandbox: &Sandbox, name: &str) -> String {
    form(sandbox, name);
    sandbox.tool("sha256sum", [name]).split(' ').next().unwrap().to_owned()
}

fn bytes(sandbox: &Sandbox, name: &str) -> Vec<u8> {
    std::fs::read(sandbox.path(name)).unwrap()
}

fn imported(ran: Ran) -> Value {
    ran.exits(0).json("kiln.import.v1")
}

/// Nothing to be seen, nothing left in staging but `left`: `job` is the note of a command that was killed.
fn nothing_but(sandbox: &Sandbox, left: &[&str], context: &str) {
    assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n", "{context}");
    let staging = sandbox.store().join("staging");
    let names = names_in(&staging);
    let is_note = |name: &str| staging.join(name).join("job.json").exists();
    let kind = |name: &str| if is_note(name) { "job" } else { name.rsplit('.').next().unwrap() }.to_owned();
    let kinds: Vec<String> = names.iter().map(|name| kind(name)).collect();
    assert_eq!(kinds, left, "{context}: {names:?}");
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new(), "{context}");
    sandbox.kiln(["store", "fsck", "-q"]).exits(0);
}

#[test]
fn a_file_a_pipe_and_a_server_give_the_same_image() {
    let sandbox = Sandbox::new();
    let server = Server::start();
    form(&sandbox, "disk.raw");
    let plain = imported(sandbox.kiln(["import", "--json", "disk.raw", "--name", "plain"]));
    for (name, _, url_in_one, pipe_in_one) in FORMS {
        let digest = sha256(&sandbox, name);
        let content = bytes(&sandbox, name);
        let same = |done: &Value, way: &str| {
            assert_eq!(done["content_digest"], plain["content_digest"], "{name} {way}");
            assert_eq!(done["layers"], plain["layers"], "{name} {way}");
            assert_eq!(done["source"]["digests"][0], format!("sha256:{digest}"), "{name} {way}");
            assert_eq!(done["source"]["file_bytes"], content.len(), "{name} {way}");
            assert_eq!(done["source"]["proved"], json!([format!("sha256:{digest}")]), "{name} {way}");
        };
        let words = ["import", "--json", name, "--name", "x", "--replace", "--sha256", &digest];
        same(&imported(sandbox.kiln(words)), "file");

        let words = ["import", "--json", "-", "--name", "x", "--replace", "--sha256", &digest];
        let piped = imported(sandbox.kiln_with_input(words, &content));
        same(&piped, "pipe");
        let passage = &piped["source"]["passage"];
        assert_eq!(passage["one_pass"], pipe_in_one, "{name}: {passage}");
        assert_eq!(passage["scratch_bytes"] == 0, pipe_in_one, "{name}: {passage}");
        assert_eq!(passage["reason"].is_string(), !pipe_in_one, "{name}: {passage}");

        let path = format!("/{name}");
        server.put(&path, Served::new(content.clone()));
        let url = server.url(&path);
        let words =
            ["import", "--json", &url, "--name", "x", "--replace", "--no-resume", "--sha256", &digest];
        let fetched = imported(sandbox.kiln(words));
        same(&fetched, "url");
        let passage = &fetched["source"]["passage"];
        assert_eq!(passage["one_pass"], url_in_one, "{name}: {passage}");
        assert_eq!(passage["scratch_bytes"] == 0, url_in_one, "{name}: {passage}");
        assert_eq!(passage["traffic"]["received_bytes"], content.len(), "{name}: {passage}");
        assert_eq!(fetched["source"]["file_name"], name);
        assert_eq!(fetched["source"]["download"]["url"], url);

        // With a copy to resume from, which goes at the end.
        let words = ["import", "--json", &url, "--name", "x", "--replace", "--sha256", &digest];
        let kept = imported(sandbox.kiln(words));
        same(&kept, "url, resumable");
        assert_eq!(kept["source"]["passage"]["one_pass"], url_in_one, "{name}");
        assert_eq!(names_in(&sandbox.store().join("staging")), Vec::<String>::new(), "{name}");
    }
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
    sandbox.kiln(["store", "fsck", "--read-data", "-q"]).exits(0);
}

#[test]
fn a_raw_disk_through_a_pipe_is_stored_as_it_comes_when_its_length_is_said() {
    let sandbox = Sandbox::new();
    small_disk(&sandbox);
    let raw = bytes(&sandbox, "disk.raw");
    let len = raw.len().to_string();
    let words = ["import", "--json", "-", "--name", "x", "--source-bytes", &len];
    let done = imported(sandbox.kiln_with_input(words, &raw));
    assert_eq!(
        done["source"]["passage"],
        json!({
            "one_pass": true, "scratch_bytes": 0, "reason": null, "traffic": null
        })
    );
    // A length that is not true is no other disk.
    let words = ["import", "--json", "-", "--name", "y", "--source-bytes", "1M"];
    let ran = sandbox.kiln_with_input(words, &raw).exits(1);
    assert_eq!(ran.error()["code"], "stream.length");
}

#[test]
fn a_cut_download_goes_on_where_it_was() {
    let sandbox = Sandbox::new();
    for name in ["disk.raw.xz", "disk.qcow2"] {
        let server = Server::start();
        let (digest, content) = (sha256(&sandbox, name), bytes(&sandbox, name));
        let len = content.len() as u64;
        let cuts = [Fault::CutAt(len / 3), Fault::Status(503), Fault::CutAt(1000), Fault::CutAt(0)];
        server.put("/f", Served::with(content.clone(), cuts));
        let url = server.url("/f");
        let words = ["import", "--json", &url, "--name", "x", "--replace", "--sha256", &digest];
        let done = imported(sandbox.kiln(words));
        let sent: u64 = server
            .asked()
            .iter()
            .filter(|asked| {
                // The look at the end of an xz file is beside the download.
                asked.range.as_deref().is_none_or(|range| range.ends_with('-'))
            })
            .map(|asked| asked.sent)
            .sum();
        assert_eq!(sent, len, "{name}: not a byte twice: {:?}", server.asked());
        let traffic = &done["source"]["passage"]["traffic"];
        assert_eq!(traffic["received_bytes"], len, "{name}: {traffic}");
        // One fault may meet the look at the end of the file.
        assert!(traffic["reconnects"].as_u64().is_some_and(|count| (3..=4).contains(&count)), "{traffic}");
        assert!(server.asked().iter().skip(1).all(|asked| asked.if_range.as_deref() == Some("\"v1\"")));
    }
}

#[test]
fn a_server_that_knows_no_parts_sends_all_again() {
    let sandbox = Sandbox::new();
    let server = Server::start();
    let (digest, content) = (sha256(&sandbox, "disk.raw.zst"), bytes(&sandbox, "disk.raw.zst"));
    let cut = content.len() as u64 / 2;
    server.put("/f", Served { ranges: false, ..Served::with(content.clone(), [Fault::CutAt(cut)]) });
    let words = ["import", "--json", &server.url("/f"), "--name", "x", "--sha256", &digest];
    let done = imported(sandbox.kiln(words));
    assert_eq!(done["source"]["passage"]["traffic"]["received_bytes"], cut + content.len() as u64);
}

#[test]
fn an_altered_download_is_refused_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    for (name, ..) in FORMS {
        let server = Server::start();
        let (digest, content) = (sha256(&sandbox, name), bytes(&sandbox, name));
        for at in [20, content.len() as u64 / 2, content.len() as u64 - 1] {
            server.put("/f", Served::with(content.clone(), vec![Fault::Altered(at); 4]));
            let ran = sandbox
                .kiln(["import", "--json", &server.url("/f"), "--name", "x", "--sha256", &digest])
                .exits(1);
            assert_eq!(ran.error()["code"], "checksum.differs", "{name} at {at}");
            nothing_but(&sandbox, &[], &format!("{name} at {at}"));
        }
        // The same through a pipe.
        let mut altered = content.clone();
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        let words = ["import", "--json", "-", "--name", "x", "--sha256", &digest];
        let ran = sandbox.kiln_with_input(words, &altered).exits(1);
        assert_eq!(ran.error()["code"], "checksum.differs", "{name}");
        nothing_but(&sandbox, &[], name);
    }
}

#[test]
fn a_file_that_changes_on_the_server_is_no_mixture() {
    let sandbox = Sandbox::new();
    let server = Server::start();
    let (digest, content) = (sha256(&sandbox, "disk.raw.xz"), bytes(&sandbox, "disk.raw.xz"));
    let faults = [Fault::CutAt(100_000), Fault::NewTag("\"v2\"".to_owned())];
    server.put("/f", Served::with(content, faults));
    let words = ["import", "--json", "--no-resume", &server.url("/f"), "--name", "x", "--sha256", &digest];
    // The second request may be the one for the end of the file.
    let ran = sandbox.kiln(words).exits(3);
    assert_eq!(ran.error()["code"], "fetch.changed");
    nothing_but(&sandbox, &[], "changed");
}

#[test]
fn a_killed_import_goes_on_with_what_it_had() {
    let sandbox = Sandbox::new();
    for name in ["disk.raw.zst", "disk.qcow2"] {
        let (digest, content) = (sha256(&sandbox, name), bytes(&sandbox, name));
        let server = Server::start();
        let half = content.len() as u64 / 2;
        server.put("/f", Served::with(content.clone(), [Fault::StallAt(half, Duration::from_secs(60))]));
        let url = server.url("/f");
        let words = ["import", "--json", &url, "--name", "x", "--replace", "--sha256", &digest];
        let mut child =
            sandbox.kiln_command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let part = || {
            let staging = sandbox.store().join("staging");
            if !staging.exists() {
                return 0;
            }
            let parts = names_in(&staging).into_iter().filter(|name| name.ends_with(".part"));
            parts.map(|name| std::fs::metadata(staging.join(name)).unwrap().len()).next().unwrap_or(0)
        };
        let begun = Instant::now();
        while part() < half {
            assert!(begun.elapsed() < Duration::from_secs(60), "{name}: {}", part());
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        nothing_but(&sandbox, &["job", "json", "part"], name);
        let jobs = sandbox.kiln(["jobs", "--json"]).exits(0).json("kiln.jobs.v1");
        let job = jobs["jobs"][0]["id"].as_str().unwrap();
        // By the same command, or by the note of it.
        let again =
            if name == "disk.qcow2" { sandbox.kiln(["resume", "--json", job]) } else { sandbox.kiln(words) };
        let done = imported(again);
        let traffic = &done["source"]["passage"]["traffic"];
        assert_eq!(traffic["resumed_bytes"], half, "{name}");
        assert_eq!(traffic["received_bytes"], content.len() as u64 - half, "{name}");
        assert_eq!(done["source"]["digests"][0], format!("sha256:{digest}"));
        assert_eq!(names_in(&sandbox.store().join("staging")), Vec::<String>::new());
        sandbox.kiln(["rm", "x"]).exits(0);
    }
}

#[test]
fn what_an_earlier_run_left_is_not_trusted() {
    let sandbox = Sandbox::new();
    let (digest, content) = (sha256(&sandbox, "disk.raw.zst"), bytes(&sandbox, "disk.raw.zst"));
    let server = Server::start();
    // Six tries and no byte more: given up, kept.
    let faults = std::iter::once(Fault::CutAt(300_000)).chain(vec![Fault::Status(500); 6]);
    server.put("/f", Served::with(content, faults));
    let url = server.url("/f");
    let words = ["import", "--json", &url, "--name", "x", "--sha256", &digest];
    let ran = sandbox.kiln(words).exits(3);
    assert_eq!(ran.error()["code"], "fetch.connection");
    nothing_but(&sandbox, &["json", "part"], "given up");
    let staging = sandbox.store().join("staging");
    let part = names_in(&staging).into_iter().find(|name| name.ends_with(".part")).unwrap();
    crate::support::overwrite(&staging.join(part), 150_000, b"forged");
    let ran = sandbox.kiln(words).exits(1);
    assert_eq!(ran.error()["code"], "checksum.differs");
    nothing_but(&sandbox, &[], "forged");
    imported(sandbox.kiln(words));
}

#[test]
fn a_silent_server_is_left_and_asked_again() {
    let sandbox = Sandbox::new();
    let (digest, content) = (sha256(&sandbox, "disk.raw.zst"), bytes(&sandbox, "disk.raw.zst"));
    let server = Server::start();
    server.put("/f", Served::with(content, [Fault::StallAt(70_000, Duration::from_secs(30))]));
    let url = server.url("/f");
    let begun = Instant::now();
    let words = ["import", "--json", &url, "--name", "x", "--sha256", &digest, "--timeout", "1"];
    let done = imported(sandbox.kiln(words));
    assert_eq!(done["source"]["passage"]["traffic"]["reconnects"], 1);
    assert!(begun.elapsed() < Duration::from_secs(25));
}

#[test]
fn a_wish_to_stop_is_heard_while_nothing_comes() {
    let sandbox = Sandbox::new();
    let (digest, content) = (sha256(&sandbox, "disk.raw.zst"), bytes(&sandbox, "disk.raw.zst"));
    let server = Server::start();
    server.put("/f", Served::with(content, [Fault::StallAt(300_000, Duration::from_secs(60))]));
    let words = ["import", "--json", &server.url("/f"), "--name", "x", "--sha256", &digest];
    let mut child = sandbox.kiln_command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    sandbox.tool("kill", ["-INT", &child.id().to_string()]);
    let begun = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    nothing_but(&sandbox, &["json", "part"], "stopped");
}

#[test]
fn nothing_is_fetched_that_nothing_proves() {
    let sandbox = Sandbox::new();
    let server = Server::start();
    server.put("/f", Served::new(vec![1; 4096]));
    let url = server.url("/f");
    for (words, code) in [
        (vec!["import", "--json", url.as_str(), "--name", "x"], "fetch.plain"),
        (vec!["import", "--json", url.as_str(), "--name", "x", "--insecure-no-digest"], "fetch.plain"),
        (vec!["import", "--json", "https://127.0.0.1:1/f", "--name", "x"], "fetch.unproved"),
        (vec!["import", "--json", "https://", "--name", "x"], "fetch.url"),
    ] {
        let ran = sandbox.kiln(&words).exits(2);
        assert_eq!(ran.error()["code"], code, "{words:?}");
    }
    assert_eq!(server.asked(), []);
}

#[test]
fn redirects_are_followed_so_far_and_nowhere_else() {
    let sandbox = Sandbox::new();
    let (digest, content) = (sha256(&sandbox, "disk.raw.zst"), bytes(&sandbox, "disk.raw.zst"));
    let server = Server::start();
    let redirect = |to: &str| Served::with(Vec::new(), vec![Fault::Redirect(to.to_owned()); 20]);
    server.put("/loop", redirect("/loop"));
    server.put("/file", redirect("file:///etc/passwd"));
    server.put("/ftp", redirect("ftp://example.org/x"));
    server.put("/good", redirect("there/disk.raw.zst?sig=SECRET"));
    server.put("/there/disk.raw.zst", Served::new(content));
    for (path, code) in [
        ("/loop", "fetch.redirect.loop"),
        ("/file", "fetch.redirect.scheme"),
        ("/ftp", "fetch.redirect.scheme"),
    ] {
        let ran = sandbox
            .kiln(["import", "--json", &server.url(path), "--name", "x", "--sha256", &digest])
            .exits(1);
        assert_eq!(ran.error()["code"], code);
    }
    let ran = sandbox.kiln(["import", "--json", &server.url("/none"), "--name", "x", "--sha256", &digest]);
    assert_eq!(ran.exits(3).error()["code"], "fetch.status");
    nothing_but(&sandbox, &[], "redirects");
    let url = server.url("/good").replace("http://", "http://user:PASSWORD@") + "?token=SECRET";
    let done = sandbox.kiln(["import", "--json", &url, "--name", "x", "--sha256", &digest]).exits(0);
    let text = String::from_utf8(done.stdout.clone()).unwrap() + &done.stderr;
    let shown = sandbox.kiln(["show", "--json", "x"]).ok() + &sandbox.kiln(["show", "x"]).ok();
    for secret in ["SECRET", "PASSWORD"] {
        assert!(!text.contains(secret) && !shown.contains(secret), "{text}{shown}");
    }
    assert!(shown.contains(&server.url("/there/disk.raw.zst")), "{shown}");
    assert!(server.asked().iter().any(|asked| asked.authorization.is_some()));
}

#[test]
fn more_than_was_allowed_is_not_fetched() {
    let sandbox = Sandbox::new();
    let (digest, content) = (sha256(&sandbox, "disk.raw"), bytes(&sandbox, "disk.raw"));
    let server = Server::start();
    server.put("/f", Served::new(content.clone()));
    let words =
        ["import", "--json", &server.url("/f"), "--name", "x", "--sha256", &digest, "--max-size", "16M"];
    assert_eq!(sandbox.kiln(words).exits(1).error()["code"], "import.too-large");
    // A server that lies about the length, either way.
    server.put("/f", Served::with(content.clone(), [Fault::Length(3 << 40)]));
    let words =
        ["import", "--json", &server.url("/f"), "--name", "x", "--sha256", &digest, "--max-size", "1G"];
    assert_eq!(sandbox.kiln(words).exits(1).error()["code"], "fetch.too-long");
    server.put("/f", Served { length: false, ..Served::with(content, [Fault::CutAt(5_000_000)]) });
    let words = ["import", "--json", &server.url("/f"), "--name", "x", "--sha256", &digest];
    assert_eq!(sandbox.kiln(words).exits(1).error()["code"], "checksum.differs");
    nothing_but(&sandbox, &[], "too long");
}
