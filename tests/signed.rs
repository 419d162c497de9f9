//! Who vouches for an image: vendors' signatures on the way in, Kiln's own on the image.

use kiln_testkit::http::{Served, Server};

use crate::support::{Sandbox, overwrite};

/// A key of GnuPG in a home of its own, and a way to sign with it.
struct Gnupg<'a> {
    sandbox: &'a Sandbox,
}

impl<'a> Gnupg<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        std::fs::create_dir_all(sandbox.path("gnupg")).unwrap();
        sandbox.tool("chmod", ["700", "gnupg"]);
        Self { sandbox }
    }

    fn gpg(&self, words: &[&str]) {
        let mut all = vec![
            "--homedir",
            "gnupg",
            "--batch",
            "--quiet",
            "--yes",
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
        ];
        all.extend(words);
        self.sandbox.tool("gpg", all);
    }

    /// Makes a key and exports its public half to `NAME.asc` and `NAME.gpg`.
    fn key(&self, name: &str, expires: &str) {
        let uid = format!("{name} <{name}@example.org>");
        self.gpg(&["--quick-gen-key", &uid, "ed25519", "sign", expires]);
        self.export(name);
    }

    fn export(&self, name: &str) {
        self.gpg(&["--armor", "--output", &format!("{name}.asc"), "--export", name]);
        self.gpg(&["--output", &format!("{name}.gpg"), "--export", name]);
    }
}

impl Drop for Gnupg<'_> {
    fn drop(&mut self) {
        let _ = self.sandbox.command("gpgconf").args(["--homedir", "gnupg", "--kill", "all"]).status();
    }
}

fn sums(sandbox: &Sandbox) {
    sandbox.disk("disk.raw", 24 << 20);
    sandbox.tool("sh", ["-c", "sha256sum disk.raw > SHA256SUMS"]);
}

#[test]
fn openpgp_signatures_over_lists_and_files_are_verified_and_recorded() {
    let sandbox = Sandbox::new();
    sums(&sandbox);
    let gnupg = Gnupg::new(&sandbox);
    gnupg.key("vendor", "never");
    gnupg.key("other", "never");
    gnupg.gpg(&["-u", "vendor", "--detach-sign", "--output", "SHA256SUMS.gpg", "SHA256SUMS"]);
    gnupg.gpg(&["-u", "vendor", "--armor", "--detach-sign", "--output", "SHA256SUMS.asc", "SHA256SUMS"]);
    gnupg.gpg(&["-u", "vendor", "--clear-sign", "--output", "CHECKSUM", "SHA256SUMS"]);
    gnupg.gpg(&["-u", "vendor", "--detach-sign", "--output", "disk.sig", "disk.raw"]);
    let list = ["import", "--json", "disk.raw", "--name", "x", "--replace", "--checksums", "SHA256SUMS"];
    let with = |more: &[&str]| sandbox.kiln(list.iter().chain(more));
    for (signature, keys) in [("SHA256SUMS.gpg", "vendor.gpg"), ("SHA256SUMS.asc", "vendor.asc")] {
        let done = with(&["--signature", signature, "--keyring", keys]).exits(0).json("kiln.import.v1");
        let signer = &done["source"]["signer"];
        assert_eq!(
            (&signer["signed"], &signer["signature"]["scheme"]),
            (&"SHA256SUMS".into(), &"openpgp".into())
        );
        assert_eq!(signer["signature"]["name"], "vendor <vendor@example.org>");
        assert_eq!(signer["signature"]["key"].as_str().unwrap().len(), 40);
        let digest = sandbox.tool("sha256sum", [keys]);
        assert_eq!(signer["keys"], format!("sha256:{}", digest.split(' ').next().unwrap()));
    }
    assert!(sandbox.kiln(["show", "x"]).ok().contains("openpgp by "));
    let clear = ["import", "--json", "disk.raw", "--name", "x", "--replace", "--checksums", "CHECKSUM"];
    sandbox.kiln(clear.iter().chain(&["--keyring", "vendor.asc"])).exits(0);
    let whole = ["import", "--json", "disk.raw", "--name", "x", "--replace", "--signature", "disk.sig"];
    let done = sandbox.kiln(whole.iter().chain(&["--keyring", "vendor.asc"])).exits(0).json("kiln.import.v1");
    assert_eq!(done["source"]["signer"]["signed"], "disk.raw");

    // What is refused.
    let code = |words: &[&str], exit: i32| {
        let ran = sandbox.kiln(words).exits(exit);
        ran.error()["code"].as_str().unwrap().to_owned()
    };
    let signed = |signature: &'static str, keys: &'static str| {
        list.iter().copied().chain(["--signature", signature, "--keyring", keys]).collect::<Vec<_>>()
    };
    assert_eq!(code(&signed("SHA256SUMS.gpg", "other.asc"), 1), "signature.unknown-key");
    assert_eq!(code(&signed("disk.sig", "vendor.asc"), 1), "signature.bad");
    assert_eq!(code(&signed("disk.raw", "vendor.asc"), 1), "signature.unreadable");
    assert_eq!(code(&signed("SHA256SUMS.gpg", "SHA256SUMS.gpg"), 1).split('.').next(), Some("signature"));
    let unsigned: Vec<&str> = list.iter().copied().chain(["--keyring", "vendor.asc"]).collect();
    assert_eq!(code(&unsigned, 1), "signature.missing");
    let untrusted: Vec<&str> = list.iter().copied().chain(["--signature", "SHA256SUMS.gpg"]).collect();
    assert_eq!(code(&untrusted, 2), "usage.signature");
    // A line outside of what is signed is nobody's word.
    let text = std::fs::read_to_string(sandbox.path("CHECKSUM")).unwrap();
    let digest = "0".repeat(64);
    std::fs::write(sandbox.path("CHECKSUM"), format!("{digest}  disk.raw\n\n{text}{digest}  disk.raw\n"))
        .unwrap();
    let ran = sandbox.kiln(clear.iter().chain(&["--keyring", "vendor.asc"]));
    if ran.code == Some(0) {
        let done = ran.json("kiln.import.v1");
        assert_ne!(done["source"]["proved"][0], format!("sha256:{digest}"));
    } else {
        assert!(ran.exits(1).error()["code"].as_str().unwrap().starts_with("signature."));
    }
    let forged = text.replace("disk.raw", "disk.rav");
    std::fs::write(sandbox.path("CHECKSUM"), forged).unwrap();
    let words: Vec<&str> = clear.iter().copied().chain(["--keyring", "vendor.asc"]).collect();
    assert_eq!(code(&words, 1), "signature.bad");
    overwrite(&sandbox.path("disk.raw"), 9_000_000, b"x");
    let words: Vec<&str> = whole.iter().copied().chain(["--keyring", "vendor.asc"]).collect();
    assert_eq!(code(&words, 1), "signature.bad");
}

#[test]
fn expired_and_revoked_keys_are_refused_and_so_is_a_machine_without_gpgv() {
    let sandbox = Sandbox::new();
    sums(&sandbox);
    let gnupg = Gnupg::new(&sandbox);
    gnupg.key("short", "seconds=3");
    gnupg.gpg(&["-u", "short", "--detach-sign", "--output", "short.sig", "SHA256SUMS"]);
    gnupg.key("taken", "never");
    gnupg.gpg(&["-u", "taken", "--detach-sign", "--output", "taken.sig", "SHA256SUMS"]);
    sandbox.tool("sh", ["-c", "sed 's/^:---/---/' gnupg/openpgp-revocs.d/$(gpg --homedir gnupg --list-keys --with-colons taken | awk -F: '/^fpr/{print $10; exit}').rev | gpg --homedir gnupg --batch --quiet --import"]);
    gnupg.export("taken");
    std::thread::sleep(std::time::Duration::from_secs(4));
    let words = |name: &str| {
        let mut words: Vec<String> =
            ["import", "--json", "disk.raw", "--name", "x", "--checksums", "SHA256SUMS"]
                .map(str::to_owned)
                .into();
        words.extend([
            "--signature".to_owned(),
            format!("{name}.sig"),
            "--keyring".to_owned(),
            format!("{name}.asc"),
        ]);
        words
    };
    assert_eq!(sandbox.kiln(words("short")).exits(1).error()["code"], "signature.key-expired");
    assert_eq!(sandbox.kiln(words("taken")).exits(1).error()["code"], "signature.key-revoked");
    let mut command = sandbox.kiln_command(words("taken"));
    let ran = crate::support::run(command.env("PATH", "/nonexistent")).exits(3);
    assert_eq!(ran.error()["code"], "signature.no-gpgv");
    assert!(ran.error()["hint"].as_str().unwrap().contains("apt-get install gpgv"));
    assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");
}

#[test]
fn minisign_signatures_of_both_kinds_are_verified() {
    let sandbox = Sandbox::new();
    sums(&sandbox);
    for name in ["vendor", "other"] {
        let (public, secret) = (format!("{name}.pub"), format!("{name}.key"));
        sandbox.tool("minisign", ["-G", "-W", "-p", &public, "-s", &secret]);
    }
    sandbox.tool("minisign", ["-S", "-H", "-s", "vendor.key", "-m", "disk.raw", "-x", "new.minisig"]);
    sandbox.tool("minisign", ["-S", "-l", "-s", "vendor.key", "-m", "disk.raw", "-x", "old.minisig"]);
    sandbox.tool("minisign", ["-S", "-s", "vendor.key", "-m", "SHA256SUMS"]);
    let words = |signature: &str, key: &str| {
        [
            "import",
            "--json",
            "disk.raw",
            "--name",
            "x",
            "--replace",
            "--signature",
            signature,
            "--minisign-key",
            key,
        ]
        .map(str::to_owned)
    };
    for signature in ["new.minisig", "old.minisig"] {
        let done = sandbox.kiln(words(signature, "vendor.pub")).exits(0).json("kiln.import.v1");
        assert_eq!(done["source"]["signer"]["signature"]["scheme"], "minisign");
        let public = std::fs::read_to_string(sandbox.path("vendor.pub")).unwrap();
        let id = public.lines().next().unwrap().rsplit(' ').next().unwrap();
        assert_eq!(done["source"]["signer"]["signature"]["key"], id);
        // The key itself as well.
        sandbox.kiln(words(signature, public.lines().nth(1).unwrap())).exits(0);
        let ran = sandbox.kiln(words(signature, "other.pub")).exits(1);
        assert_eq!(ran.error()["code"], "signature.unknown-key");
    }
    // Over a list, all of it from a server.
    let server = Server::start();
    for name in ["disk.raw", "SHA256SUMS", "SHA256SUMS.minisig"] {
        server.put(&format!("/{name}"), Served::new(std::fs::read(sandbox.path(name)).unwrap()));
    }
    let (url, list) = (server.url("/disk.raw"), server.url("/SHA256SUMS"));
    let signature = server.url("/SHA256SUMS.minisig");
    let fetched = [
        "import",
        "--json",
        &url,
        "--name",
        "y",
        "--checksums",
        &list,
        "--signature",
        &signature,
        "--minisign-key",
        "vendor.pub",
    ];
    let done = sandbox.kiln(fetched).exits(0).json("kiln.import.v1");
    assert_eq!(done["source"]["signer"]["signed"], "SHA256SUMS");
    let url_signed = server.url("/disk.raw");
    server.put("/new.minisig", Served::new(std::fs::read(sandbox.path("new.minisig")).unwrap()));
    let signature = server.url("/new.minisig");
    let words_url = [
        "import",
        "--json",
        &url_signed,
        "--name",
        "z",
        "--signature",
        &signature,
        "--minisign-key",
        "vendor.pub",
    ];
    let done = sandbox.kiln(words_url).exits(0).json("kiln.import.v1");
    assert_eq!(done["source"]["signer"]["signed"], "disk.raw");
    overwrite(&sandbox.path("disk.raw"), 9_000_000, b"x");
    for signature in ["new.minisig", "old.minisig"] {
        assert_eq!(sandbox.kiln(words(signature, "vendor.pub")).exits(1).error()["code"], "signature.bad");
    }
}

#[test]
fn images_are_signed_and_who_signed_them_is_checked() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 24 << 20);
    let required = || sandbox.kiln(["verify", "--json", "web", "--require-signature"]);
    sandbox.kiln(["key", "new", "release"]).exits(0);
    sandbox.kiln(["import", "-q", "disk.raw", "--name", "web"]).exits(0);
    assert_eq!(required().exits(1).json("kiln.verify.v1")["intact"], false);
    sandbox.kiln(["verify", "-q", "web"]).exits(0);
    sandbox.kiln(["sign", "web", "--key", "release"]).exits(0);
    let verified = required().exits(0).json("kiln.verify.v1");
    assert_eq!(verified["signatures"][0]["name"], "release");
    assert_eq!(verified["signatures"][0]["trusted"], true);
    // Moving the tag away changes the manifest, and not what was signed.
    let done =
        sandbox.kiln(["import", "--json", "disk.raw", "--name", "web", "--replace", "--sign", "release"]);
    let done = done.exits(0).json("kiln.import.v1");
    required().exits(0);
    let old = done["untagged"].as_str().unwrap();
    sandbox.kiln(["verify", "-q", old, "--require-signature"]).exits(0);
    sandbox.kiln(["store", "rebuild"]).exits(0);
    sandbox.kiln(["store", "fsck", "-q"]).exits(0);
    assert!(sandbox.kiln(["show", "web"]).ok().contains("release, ed25519:"));
    // Trust is this user's.
    sandbox.kiln(["key", "untrust", "release"]).exits(0);
    required().exits(1);
    let shown = sandbox.kiln(["key", "show", "release"]).ok();
    let key = shown.lines().nth(1).unwrap().to_owned();
    sandbox.kiln(["key", "trust", "them", &key]).exits(0);
    required().exits(0);
    assert_eq!(sandbox.kiln(["key", "new", "release"]).exits(3).code, Some(3));
    // A record that was changed is no longer what was signed.
    let id = done["id"].as_str().unwrap();
    let path = sandbox.store().join(format!("images/{id}/signatures.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    let other =
        std::fs::read_to_string(sandbox.store().join(format!("images/{old}/signatures.json"))).unwrap();
    std::fs::write(&path, other).unwrap();
    let ran = required().exits(1).json("kiln.verify.v1");
    assert_eq!(ran["signatures"][0]["valid"], false);
    sandbox.kiln(["verify", "-q", "web"]).exits(1);
    sandbox.kiln(["store", "fsck", "-q"]).exits(1);
    std::fs::write(&path, "{}").unwrap();
    required().exits(1);
    std::fs::write(&path, text).unwrap();
    required().exits(0);
    sandbox.kiln(["rm", "web"]).exits(0);
    assert!(!path.exists());
}
