//! Servers over TLS, servers that are too slow, and what they send to do harm.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use kiln_testkit::http::{Fault, Served, Server};

use crate::support::{Sandbox, names_in};

/// A https server with the files of `www`, its certificate signed by an authority of its own.
struct TlsServer {
    child: Child,
    port: u16,
}

const SERVER: &str = "
import http.server, ssl, sys
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), lambda *a: Quiet(*a, directory='www'))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('server.pem', 'server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";

impl TlsServer {
    fn start(sandbox: &Sandbox) -> Self {
        let mut child = sandbox
            .command("/usr/bin/python3")
            .args(["-c", SERVER])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed; `make setup` installs it");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }

    fn url(&self, name: &str) -> String {
        format!("https://localhost:{}/{name}", self.port)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two authorities, and a certificate for `localhost` by the first.
fn certificates(sandbox: &Sandbox) {
    let openssl = |words: &str| sandbox.tool("openssl", words.split(' '));
    for name in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
             -addext basicConstraints=critical,CA:TRUE -keyout {name}.key -out {name}.pem"
        ));
    }
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key \
         -out server.csr",
    );
    std::fs::write(sandbox.path("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    );
}

fn served(sandbox: &Sandbox) -> String {
    sandbox.disk("disk.raw", 9 << 20);
    std::fs::create_dir(sandbox.path("www")).unwrap();
    sandbox.tool(
        "sh",
        ["-c", "zstd -q -c disk.raw > www/disk.raw.zst && cd www && sha256sum disk.raw.zst > SHA256SUMS"],
    );
    sandbox.tool("sha256sum", ["www/disk.raw.zst"]).split(' ').next().unwrap().to_owned()
}

fn staging(store: &Path) -> Vec<String> {
    names_in(&store.join("staging"))
}

#[test]
fn a_server_of_ones_own_is_trusted_by_its_authority_and_by_no_other() {
    let sandbox = Sandbox::new();
    certificates(&sandbox);
    let digest = served(&sandbox);
    let server = TlsServer::start(&sandbox);
    let (file, list) = (server.url("disk.raw.zst"), server.url("SHA256SUMS"));
    for wrong in [&["--ca-file", "other.pem"][..], &[]] {
        let words = ["import", "--json", &file, "--name", "x", "--sha256", &digest];
        let begun = Instant::now();
        let ran = sandbox.kiln(words.iter().chain(wrong)).exits(3);
        assert_eq!(ran.error()["code"], "fetch.untrusted", "{wrong:?}");
        assert!(ran.error()["hint"].as_str().unwrap().contains("--ca-file"));
        assert!(begun.elapsed() < Duration::from_secs(5), "an untrusted server is not asked again");
        let words = ["verify", "--json", "www/disk.raw.zst", "--checksums", &list];
        let ran = sandbox.kiln(words.iter().chain(wrong)).exits(3);
        assert_eq!(ran.error()["code"], "fetch.untrusted", "{wrong:?}");
    }
    assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");

    let words = ["import", "--json", &file, "--name", "x", "--checksums", &list, "--ca-file", "ca.pem"];
    let done = sandbox.kiln(words).exits(0).json("kiln.import.v1");
    assert_eq!(done["source"]["proved"][0], format!("sha256:{digest}"));
    assert_eq!(done["source"]["passage"]["one_pass"], true);
    let words = ["verify", "--json", "www/disk.raw.zst", "--checksums", &list, "--ca-file", "ca.pem"];
    let done = sandbox.kiln(words).exits(0).json("kiln.verify.v1");
    assert!(done.to_string().contains(&format!("{list} line 1")), "{done:#}");

    // A name that the certificate is not for.
    let elsewhere = file.replace("localhost", "127.0.0.1");
    let words = ["import", "--json", &elsewhere, "--name", "y", "--sha256", &digest, "--ca-file", "ca.pem"];
    assert_eq!(sandbox.kiln(words).exits(3).error()["code"], "fetch.untrusted");
    // A file without certificates, and one that is not there.
    for bad in ["server.key", "none.pem"] {
        let words = ["import", "--json", &file, "--name", "y", "--sha256", &digest, "--ca-file", bad];
        assert_eq!(sandbox.kiln(words).exits(3).error()["code"], "fetch.certificates", "{bad}");
    }
    assert_eq!(staging(&sandbox.store()), Vec::<String>::new());
}

#[test]
fn a_list_of_checksums_over_plain_http_proves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    let server = Server::start();
    server.put("/SHA256SUMS", Served::new(sandbox.tool("sha256sum", ["disk.raw"]).into_bytes()));
    let url = server.url("/SHA256SUMS");
    let ran = sandbox.kiln(["verify", "--json", "disk.raw", "--checksums", &url]).exits(2);
    assert_eq!(ran.error()["code"], "fetch.plain");
    assert_eq!(server.asked(), []);
}

#[test]
fn a_server_that_drips_is_given_up() {
    let sandbox = Sandbox::new();
    let digest = served(&sandbox);
    let bytes = std::fs::read(sandbox.path("www/disk.raw.zst")).unwrap();
    let server = Server::start();
    let drip = || vec![Fault::Slow(Duration::from_millis(50)); 20];
    server.put("/f", Served::with(bytes.clone(), drip()));
    let url = server.url("/f");
    let words = ["import", "--json", &url, "--name", "x", "--sha256", &digest, "--timeout", "1"];
    let begun = Instant::now();
    let ran = sandbox.kiln(words).exits(3);
    assert_eq!(ran.error()["code"], "fetch.connection");
    assert!(ran.error().to_string().contains("at least 1024 a second are wanted"), "{}", ran.error());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");

    // Once it has come to itself, the same command goes on behind what dripped.
    server.put("/f", Served::new(bytes.clone()));
    let done = sandbox.kiln(words).exits(0).json("kiln.import.v1");
    assert!(done["source"]["passage"]["traffic"]["resumed_bytes"].as_u64().unwrap() > 20);
    // Who has time may take it.
    server.put("/g", Served::with(bytes[..60].to_vec(), drip()));
    let words = ["import", "--json", &server.url("/g"), "--name", "y", "--sha256", &digest, "--timeout", "1"];
    let ran = sandbox.kiln(words.iter().chain(&["--min-rate", "0"])).exits(1);
    assert_eq!(ran.error()["code"], "checksum.differs");
}

#[test]
fn a_bomb_on_a_server_is_stopped_before_it_is_unpacked() {
    let sandbox = Sandbox::new();
    let server = Server::start();
    // 4 GiB that are not zeros, 16 KiB in two wrappers; and as much in one.
    sandbox
        .tool("sh", ["-c", "yes kiln | head -c 4G | zstd -q -1 > once.zst && gzip -c once.zst > twice.gz"]);
    for (name, codes) in
        [("once.zst", ["import.too-large", "wrap.too-long"]), ("twice.gz", ["wrap.ratio", "wrap.too-long"])]
    {
        let digest = sandbox.tool("sha256sum", [name]).split(' ').next().unwrap().to_owned();
        let bytes = std::fs::read(sandbox.path(name)).unwrap();
        assert!(bytes.len() < 4 << 20, "{}", bytes.len());
        server.put(&format!("/{name}"), Served::new(bytes));
        let url = server.url(&format!("/{name}"));
        let words = ["import", "--json", &url, "--name", "x", "--sha256", &digest, "--max-size", "1G"];
        let ran = sandbox.kiln(words).exits(1);
        let code = ran.error()["code"].as_str().unwrap().to_owned();
        assert!(codes.contains(&code.as_str()), "{name}: {code}");
        assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");
        assert_eq!(staging(&sandbox.store()), Vec::<String>::new(), "{name}");
    }
}
