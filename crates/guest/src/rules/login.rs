//! Rules of cloud-init, agents and logins.

use super::{Case, Hits, Impact};
use crate::facts::Seen;
use crate::facts::access::Password;

/// cloudinit.present
pub(super) fn present(case: &Case<'_>, hits: &mut Hits) {
    if !case.is_linux() {
        return;
    }
    match &case.report.cloud_init {
        None => hits.add("cloud-init is not installed", Seen::file("/usr/bin/cloud-init")),
        Some(init) if !init.enabled => match (&init.disabled_by, init.missing_units.first()) {
            (Some(seen), _) => hits.add("cloud-init is installed and switched off", seen.clone()),
            (None, Some(unit)) => hits.add(
                format!("cloud-init is installed, and its unit {unit} is missing or masked"),
                Seen::file(format!("/etc/systemd/system/{unit}")),
            ),
            (None, None) => hits.add(
                "cloud-init is installed, and its units are not enabled",
                Seen::file("/etc/systemd/system"),
            ),
        },
        Some(_) => {
            let off = case.report.boot.entries.iter().find(|entry| {
                entry.default
                    && (entry.argument("cloud-init") == Some("disabled") || entry.has("cloud-init=disabled"))
            });
            if let Some(entry) = off {
                hits.add("cloud-init=disabled stands on the command line", entry.seen.clone());
            }
        }
    }
}

/// cloudinit.datasource
pub(super) fn datasource(case: &Case<'_>, hits: &mut Hits) {
    let Some(init) = case.report.cloud_init.as_ref().filter(|init| init.enabled) else { return };
    let wanted = case.place.datasources;
    if wanted.is_empty() || init.datasources.is_empty() {
        return;
    }
    let has = |name: &&str| init.datasources.iter().any(|known| known.eq_ignore_ascii_case(name));
    let seen = init.datasources_seen.clone().unwrap_or_else(|| Seen::file("/etc/cloud/cloud.cfg"));
    if !wanted.iter().any(has) {
        let list = wanted.join(" or ");
        hits.add_fix(
            format!("the list is {}; {} needs {list}", init.datasources.join(", "), case.place.name),
            seen,
            format!(
                "echo 'datasource_list: [ {}, None ]' >/etc/cloud/cloud.cfg.d/99-kiln-datasource.cfg",
                wanted.join(", ")
            ),
        );
    } else if case.place.id == "digitalocean" {
        let place = |name: &str| init.datasources.iter().position(|known| known == name);
        if let (Some(no_cloud), Some(drive)) = (place("NoCloud"), place("ConfigDrive"))
            && no_cloud < drive
        {
            hits.add("NoCloud stands before ConfigDrive", seen);
        }
    }
}

/// cloudinit.state
pub(super) fn state(case: &Case<'_>, hits: &mut Hits) {
    let Some(init) = &case.report.cloud_init else { return };
    for seen in &init.state {
        hits.add("left by an earlier run", seen.clone());
    }
    if let Some(seen) = &init.network_disabled {
        let asks = case.report.network.interfaces.iter().any(|interface| interface.dhcp);
        if !asks {
            hits.add("cloud-init is told to leave the network alone", seen.clone());
        }
    }
}

/// cloudinit.growpart
pub(super) fn growpart(case: &Case<'_>, hits: &mut Hits) {
    let Some(init) = &case.report.cloud_init else { return };
    let initramfs = case.report.kernels.iter().any(|kernel| {
        let content = kernel.initramfs.as_ref().and_then(|file| file.content.as_ref());
        content.is_some_and(|content| content.texts.iter().any(|(path, _)| path.contains("growroot")))
    });
    if !init.growpart && !initramfs {
        hits.add("nothing grows the root to the size of its disk", Seen::file("/usr/bin/growpart"));
    }
}

/// agent.azure
pub(super) fn azure(case: &Case<'_>, hits: &mut Hits) {
    if case.place.id != "azure" || !case.is_linux() {
        return;
    }
    let agent = case.report.agents.iter().any(|agent| agent.place == "azure");
    let by_init = case.report.cloud_init.as_ref().is_some_and(|init| init.enabled);
    if !agent && !by_init {
        hits.add(
            "neither the Azure agent nor cloud-init is there to make the user",
            Seen::file("/usr/sbin/waagent"),
        );
    } else if !agent {
        hits.add_as(
            Impact::Advice,
            "the Azure agent is missing: no extensions, no password reset",
            Seen::file("/usr/sbin/waagent"),
        );
    }
}

/// agent.other
pub(super) fn other(case: &Case<'_>, hits: &mut Hits) {
    for agent in &case.report.agents {
        let own = agent.place == case.place.id
            || matches!(
                agent.place,
                "kvm" | "vmware" | "virtualbox" | "xen" | "parallels" | "hyper-v" | "any"
            );
        if !own {
            hits.add(format!("{} is for {}", agent.name, agent.place), agent.seen.clone());
        }
    }
}

/// agent.vmtools
pub(super) fn tools(case: &Case<'_>, hits: &mut Hits) {
    for agent in &case.report.agents {
        let tools = matches!(agent.place, "vmware" | "virtualbox" | "xen" | "parallels" | "any");
        if tools && agent.place != case.place.id {
            hits.add(format!("{} is installed", agent.name), agent.seen.clone());
        }
    }
}

/// agent.qga
pub(super) fn qga(case: &Case<'_>, hits: &mut Hits) {
    if case.is_linux() && !case.report.agents.iter().any(|agent| agent.name == "qemu-guest-agent") {
        hits.add(
            "qemu-guest-agent is not installed: no clean freeze for backups",
            Seen::file("/usr/sbin/qemu-ga"),
        );
    }
}

/// ssh.daemon
pub(super) fn daemon(case: &Case<'_>, hits: &mut Hits) {
    if !case.is_linux() {
        return;
    }
    let ssh = &case.report.ssh;
    match &ssh.installed {
        None => hits.add("no SSH server is installed", Seen::file("/usr/sbin/sshd")),
        Some(seen) if !ssh.enabled => hits.add("the SSH server is not started at boot", seen.clone()),
        Some(seen) => {
            let by_init = case.report.cloud_init.as_ref().is_some_and(|init| init.enabled);
            if ssh.host_keys.is_empty() && !ssh.makes_keys && !by_init {
                hits.add(
                    "there are no host keys, and nothing makes them: the server will not start",
                    seen.clone(),
                );
            }
        }
    }
}

/// ssh.config
pub(super) fn config(case: &Case<'_>, hits: &mut Hits) {
    let ssh = &case.report.ssh;
    if let Some((port, seen)) = ssh.setting("Port").filter(|(port, _)| *port != "22") {
        hits.add(format!("the server listens on port {port}"), seen.clone());
    }
    for name in ["AllowUsers", "AllowGroups", "DenyUsers", "ListenAddress"] {
        let harmless = |value: &str| name == "ListenAddress" && matches!(value, "0.0.0.0" | "::");
        if let Some((value, seen)) = ssh.setting(name).filter(|(value, _)| !harmless(value)) {
            hits.add(format!("{name} {value}"), seen.clone());
        }
    }
    loose_keys(case, hits);
    // Tencent's console sets the password of root.
    let root =
        ssh.setting("PermitRootLogin").filter(|(value, _)| case.place.id == "tencent" && *value == "no");
    if let Some((value, seen)) = root {
        hits.add(
            format!("PermitRootLogin {value}: the password that the place sets is that of root"),
            seen.clone(),
        );
    }
    if let Some((value, seen)) = ssh.setting("PermitEmptyPasswords").filter(|(value, _)| *value == "yes") {
        hits.add_as(Impact::Hygiene, format!("PermitEmptyPasswords {value}"), seen.clone());
    }
    // Tencent's console gives a password by default.
    if case.place.id == "tencent"
        && let Some((value, seen)) = ssh.setting("PasswordAuthentication").filter(|(value, _)| *value == "no")
    {
        hits.add(
            format!("PasswordAuthentication {value}: choose a key when the machine is made"),
            seen.clone(),
        );
    }
}

/// Keys that sshd does not read: their file, its directory or the home may be written by others, or belongs to
/// somebody else (sshd_config(5), StrictModes).
fn loose_keys(case: &Case<'_>, hits: &mut Hits) {
    if case.report.ssh.setting("StrictModes").is_some_and(|(value, _)| value.eq_ignore_ascii_case("no")) {
        return;
    }
    for account in &case.report.accounts {
        let Some(Seen::File { path, .. }) = &account.authorized_keys_seen else { continue };
        for path in [path.clone(), format!("{}/.ssh", account.home), account.home.clone()] {
            let Ok(stat) = case.examination.tree.stat(&path) else { continue };
            let what = match (stat.mode, stat.uid) {
                (Some(mode), _) if mode & 0o022 != 0 => format!("others may write to it (mode {mode:o})"),
                (_, Some(uid)) if uid != 0 && uid != account.uid => format!("it belongs to user {uid}"),
                _ => continue,
            };
            let what = format!("{what}: the server does not take the keys of {}", account.name);
            let fix = format!("chown {} {path}; chmod go-w {path}", account.name);
            hits.add_fix(what, Seen::file(path), fix);
        }
    }
}

/// login.shadow
pub(super) fn shadow(case: &Case<'_>, hits: &mut Hits) {
    if !case.is_linux() {
        return;
    }
    let path = "/etc/shadow";
    match case.report.shadow_mode {
        None if !case.examination.tree.exists(path) => {
            hits.add("it is missing: no password can be set", Seen::file(path));
        }
        Some(mode) if mode & 0o007 != 0 => {
            hits.add_as(
                Impact::Hygiene,
                format!("anybody may read or write it (mode {mode:o})"),
                Seen::file(path),
            );
        }
        _ => {}
    }
}

/// login.user
pub(super) fn user(case: &Case<'_>, hits: &mut Hits) {
    if !case.is_linux() {
        return;
    }
    // Where the place offers no data, its owner gives cloud-init a seed.
    let by_init = case.report.cloud_init.as_ref().is_some_and(|init| init.enabled);
    let by_agent = case.report.agents.iter().any(|agent| agent.place == case.place.id);
    let open = case.report.accounts.iter().any(|account| {
        matches!(account.password, Password::Set | Password::Weak | Password::Empty | Password::Unknown)
            || account.authorized_keys > 0
    });
    if !by_init && !by_agent && !open {
        hits.add("no user has a password or a key, and nothing makes one", Seen::file("/etc/passwd"));
    }
}

/// selinux.state
pub(super) fn selinux(case: &Case<'_>, hits: &mut Hits) {
    if case.report.selinux.as_deref() == Some("enforcing") {
        hits.add(
            "SELinux is enforcing: files changed from outside need new labels",
            Seen::file("/etc/selinux/config"),
        );
    }
}

/// selinux.labels
pub(super) fn relabel(case: &Case<'_>, hits: &mut Hits) {
    if case.report.selinux_relabel {
        hits.add("the first start labels every file and starts again", Seen::file("/.autorelabel"));
    }
}

/// time.rtc
pub(super) fn clock(case: &Case<'_>, hits: &mut Hits) {
    let path = "/etc/adjtime";
    let text = case.examination.tree.text(path).unwrap_or_default();
    if text.lines().any(|line| line.trim() == "LOCAL") {
        hits.add("the clock is taken for local time; the place gives UTC", Seen::line(path, 3));
    }
}

/// os.supported
pub(super) fn supported(case: &Case<'_>, hits: &mut Hits) {
    let Some(os) = &case.report.os else { return };
    if let (Some(end), Some(today)) = (os.end_of_life, &case.options.today)
        && end < today.as_str()
    {
        let seen = match &case.report.windows {
            Some(windows) => windows.seen("SOFTWARE", "Microsoft\\Windows NT\\CurrentVersion"),
            None => Seen::file("/etc/os-release"),
        };
        hits.add(format!("{} has had no updates since {end}", os.name), seen);
    }
}

/// An architecture as uname(2) spells it; clouds have words of their own.
fn spelled(word: &str) -> String {
    let word = word.to_ascii_lowercase();
    match word.as_str() {
        "amd64" | "x64" | "x86-64" => "x86_64".to_owned(),
        "arm64" => "aarch64".to_owned(),
        "x86" | "i486" | "i586" | "i686" => "i386".to_owned(),
        _ => word,
    }
}

/// os.arch
pub(super) fn architecture(case: &Case<'_>, hits: &mut Hits) {
    let Some(os) = &case.report.os else { return };
    let Some(programs) = os.architecture else { return };
    if let Some(label) = &case.options.architecture
        && spelled(label) != spelled(programs)
    {
        hits.add_as(
            Impact::RejectedAtImport,
            format!("it is labelled {label}, and its programs are for {programs}"),
            Seen::file(os.architecture_from.clone().unwrap_or_default()),
        );
    }
    for kernel in case.report.kernels.iter().filter(|kernel| super::boot::is_default(case, &kernel.path)) {
        let wide = |architecture: &str| {
            if architecture == "i386" { "x86_64".to_owned() } else { architecture.to_owned() }
        };
        if let Some(of_kernel) = kernel.architecture
            && wide(of_kernel) != wide(programs)
        {
            hits.add(
                format!("the kernel is for {of_kernel}, the programs are for {programs}"),
                Seen::file(&kernel.path),
            );
        }
    }
    let loaders = &case.report.boot.fallback;
    let wrong = loaders.iter().find(|loader| {
        !loaders.iter().any(|loader| loader.architecture == Some(programs)) && loader.architecture.is_some()
    });
    if let Some(wrong) = wrong {
        hits.add_as(
            Impact::Advice,
            format!(
                "{} is for {}, the programs are for {programs}",
                wrong.path,
                wrong.architecture.unwrap_or("?")
            ),
            Seen::file(format!("ESP:{}", wrong.path)),
        );
    }
    if programs == "i386" {
        hits.add_as(
            Impact::Advice,
            "it is a 32-bit system; most places refuse it",
            Seen::file(os.architecture_from.clone().unwrap_or_default()),
        );
    }
}
