//! Nothing inside an image opens another file (T-EXT-06): proved from outside, by the system calls themselves.

use std::path::Path;

use crate::support::{Ran, Sandbox, run};

/// Runs `kiln` under strace; answers how it ended and every path that it opened.
fn traced(sandbox: &Sandbox, words: &[&str]) -> (Ran, Vec<String>) {
    let log = sandbox.path("../trace");
    let mut command = sandbox.command("strace");
    command
        .args([
            "-f",
            "-qq",
            "-y",
            "-s",
            "4096",
            "-e",
            "trace=open,openat,openat2,creat,execve,connect,socket",
            "-o",
        ])
        .arg(&log)
        .arg(env!("CARGO_BIN_EXE_kiln"))
        .args(words);
    let ran = run(&mut command);
    let trace = std::fs::read_to_string(&log).expect("strace is needed; `make setup` installs it");
    assert!(trace.contains("openat("), "strace saw nothing: {trace}");
    // The program itself, and itself once more to read the disk, with no file.
    let worker = r#"execve("/proc/self/exe", ["/proc/self/exe", "guest-worker"], "#;
    let started = trace.lines().filter(|line| line.contains("execve(") && !line.contains(worker)).count();
    assert_eq!(started, 1, "another program was run: {trace}");
    assert!(!trace.contains("connect(") && !trace.contains("socket("), "{trace}");
    let paths = trace
        .lines()
        .filter(|line| line.contains("open"))
        .filter_map(|line| line.split('"').nth(1))
        .map(str::to_owned)
        .collect();
    (ran, paths)
}

/// Paths that every run may open: the loader's, the kernel's, the store, and what the command line names.
fn is_known(path: &str, named: &[&str], store: &Path) -> bool {
    let system =
        ["/etc/ld.so.", "/lib/", "/lib64/", "/usr/lib", "/proc/", "/sys/fs/cgroup/", "/sys/devices/"];
    system.iter().any(|start| path.starts_with(start))
        || Path::new(path).starts_with(store)
        || store.starts_with(path)
        || named.contains(&path)
        || path == "."
        || path == "/dev/null"
        // SQLite seeds itself.
        || path == "/dev/urandom"
        // Who asks, and the settings.
        || ["/etc/passwd", "/etc/nsswitch.conf"].contains(&path)
        || path.ends_with("/home/.config/kiln/config.toml")
}

/// A file that no command may touch, and images that ask for it in every way that there is.
fn hostile(sandbox: &Sandbox) -> Vec<&'static str> {
    let secret = sandbox.path("secret.raw");
    std::fs::write(&secret, vec![0x5a; 1 << 20]).unwrap();
    let absolute = secret.to_str().unwrap();
    let create = |name: &str, backing: &str| {
        sandbox
            .tool("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", name, "1M"]);
    };
    create("absolute.qcow2", absolute);
    create("relative.qcow2", "secret.raw");
    create("protocol.qcow2", "file:secret.raw");
    let json = format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{absolute}"}}}}"#);
    create("json.qcow2", &json);
    create("net.qcow2", "nbd://127.0.0.1:1/x");
    sandbox
        .tool("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "data_file=stolen.raw", "data.qcow2", "1M"]);
    std::fs::rename(&secret, sandbox.path("stolen.raw")).unwrap();
    std::fs::write(&secret, vec![0x5a; 1 << 20]).unwrap();
    let fixture = kiln_testkit::fixtures::committed_dir().join("differencing.vhd.gz");
    std::fs::write(sandbox.path("differencing.vhd.gz"), std::fs::read(fixture).unwrap()).unwrap();
    sandbox.tool("gzip", ["-d", "differencing.vhd.gz"]);
    vec![
        "absolute.qcow2",
        "relative.qcow2",
        "protocol.qcow2",
        "json.qcow2",
        "net.qcow2",
        "data.qcow2",
        "differencing.vhd",
    ]
}

#[test]
fn t_ext_06_no_command_opens_what_an_image_names() {
    let sandbox = Sandbox::new();
    for image in hostile(&sandbox) {
        for (words, code) in [
            (&["inspect", image][..], Some(0)),
            (&["inspect", "--output", "qemu", image], Some(0)),
            (&["check", "--data", image], None),
            (&["verify", image], Some(1)),
            (&["map", image], Some(1)),
            (&["convert", image, "out.raw"], Some(1)),
            (&["import", image, "--name", "x"], Some(1)),
        ] {
            let (ran, paths) = traced(&sandbox, words);
            if let Some(code) = code {
                assert_eq!(ran.code, Some(code), "{words:?} {ran:?}");
            }
            let foreign: Vec<_> =
                paths.iter().filter(|path| !is_known(path, &[image], &sandbox.store())).collect();
            assert_eq!(foreign, Vec::<&String>::new(), "{words:?}");
        }
        assert!(!sandbox.path("out.raw").exists());
    }
    assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");
}

#[test]
fn refusal_names_the_reference_and_the_way_out_and_inspect_only_shows_it() {
    let sandbox = Sandbox::new();
    hostile(&sandbox);
    let ran = sandbox.kiln(["convert", "--json", "relative.qcow2", "out.raw"]).exits(1);
    let error = ran.error();
    assert_eq!(error["code"], "reference.denied");
    assert!(error["message"].as_str().unwrap().contains("\"secret.raw\""), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--allow-backing NAME=PATH"), "{error}");
    let json = sandbox.kiln(["inspect", "--json", "relative.qcow2"]).exits(0).json("kiln.inspect.v1");
    assert_eq!(
        json["references"],
        serde_json::json!([{
            "role": "backing",
            "name": "secret.raw",
            "format": "raw",
            "at": json["references"][0]["at"],
        }])
    );
    let at = usize::try_from(json["references"][0]["at"].as_u64().unwrap()).unwrap();
    assert_eq!(std::fs::read(sandbox.path("relative.qcow2")).unwrap()[at..][..10], *b"secret.raw");
    let json = sandbox.kiln(["check", "--json", "relative.qcow2"]).exits(1).json("kiln.check.v1");
    assert_eq!(json["findings"][0]["id"], "format.reference");
    assert_eq!(json["findings"][0]["offset_bytes"], at);
}

#[test]
fn an_allowed_reference_is_read_and_the_output_needs_no_other_file() {
    let sandbox = Sandbox::new();
    hostile(&sandbox);
    sandbox
        .kiln(["convert", "--allow-backing", "secret.raw=./secret.raw", "relative.qcow2", "out.qcow2"])
        .exits(0);
    sandbox.tool("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", "out.qcow2", "secret.raw"]);
    let json = sandbox.kiln(["inspect", "--json", "out.qcow2"]).exits(0).json("kiln.inspect.v1");
    assert_eq!(json["references"], serde_json::json!([]));
    // Only the name that was allowed.
    let ran = sandbox
        .kiln(["convert", "--json", "--allow-backing", "other.raw=./secret.raw", "relative.qcow2", "b.qcow2"])
        .exits(1);
    assert_eq!(ran.error()["code"], "reference.denied");
}

#[test]
fn hostile_reference_names_do_not_reach_the_terminal() {
    let sandbox = Sandbox::new();
    let name = "a\x1b]0;owned\x07\u{202e}b";
    sandbox.tool("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", "x.qcow2", "1M"]);
    for words in
        [&["inspect", "x.qcow2"][..], &["check", "x.qcow2"], &["verify", "x.qcow2"], &["map", "x.qcow2"]]
    {
        let ran = sandbox.kiln(words);
        for text in [ran.text(), &ran.stderr] {
            assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{words:?} {text:?}");
        }
    }
    assert!(sandbox.kiln(["inspect", "x.qcow2"]).ok().contains(r"a\u{1b}]0;owned\u{7}\u{202e}b"));
}
