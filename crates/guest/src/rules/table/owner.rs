//! Rows about the network, the login, and what an image should not carry.

use super::super::{Impact, Rule, hygiene, login, meta, network};

pub(super) const OS_SUPPORTED: Rule = Rule {
    id: "os.supported",
    inspects: "os-release against dates of end of life",
    summary: "the system gets no more updates",
    effect: "known holes stay open",
    fix: "upgrade to a release that is maintained",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::supported,
};

pub(super) const OS_ARCH: Rule = Rule {
    id: "os.arch",
    inspects: "ELF and kernel headers, and what the image is registered with",
    summary: "kernel, programs and label are for different machines",
    effect: "the kernel cannot run /sbin/init, or the image is refused for the machines that it is offered to",
    fix: "reinstall the kernel of the right architecture, or register the image with the one that it has: kiln set IMAGE --arch ARCH",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: login::architecture,
};

pub(super) const NET_DHCP: Rule = Rule {
    id: "net.dhcp",
    inspects: "ifupdown, netplan, ifcfg, NetworkManager, networkd, cloud-init",
    summary: "no interface asks for an address",
    effect: "the machine starts without a network",
    fix: "ask for an address by DHCP: printf '[Match]\\nName=en* eth*\\n[Network]\\nDHCP=yes\\n' >/etc/systemd/network/80-dhcp.network",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: network::dhcp,
};

pub(super) const NET_MAC: Rule = Rule {
    id: "net.mac",
    inspects: "HWADDR=, macaddress, MACAddress",
    summary: "an interface is bound to a hardware address",
    effect: "the new card has another address and stays down",
    fix: "delete the line",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: network::mac,
};

pub(super) const NET_UDEV: Rule = Rule {
    id: "net.udev",
    inspects: "70-persistent-net.rules, .link files",
    summary: "an interface is named by its hardware address",
    effect: "the new card gets another name than the configuration has",
    fix: "delete the file",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: network::udev,
};

pub(super) const NET_IFNAME: Rule = Rule {
    id: "net.ifname",
    inspects: "interface names in the configuration",
    summary: "the configuration is for a card of another name",
    effect: "the machine starts without a network",
    fix: "match by en* and eth*, or put net.ifnames=0 on the command line and use eth0",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: network::ifname,
};

pub(super) const NET_DNS: Rule = Rule {
    id: "net.dns",
    inspects: "/etc/resolv.conf",
    summary: "a name server of another place is written down",
    effect: "names are not resolved until it is replaced",
    fix: "ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf, or empty the file",
    impact: Impact::Advice,
    tencent_error: None,
    run: network::dns,
};

pub(super) const NET_NM_SERVER: Rule = Rule {
    id: "net.nm-server",
    inspects: "NetworkManager's conf.d",
    summary: "NetworkManager leaves new cards alone",
    effect: "the machine starts without a network",
    fix: "dnf remove NetworkManager-config-server",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: network::nm_server,
};

pub(super) const NET_MULTI_NIC: Rule = Rule {
    id: "net.multi-nic",
    inspects: "interfaces of all configurations",
    summary: "more than one interface is configured",
    effect: "places give one; the others delay the start",
    fix: "remove the others",
    impact: Impact::Advice,
    tencent_error: None,
    run: network::several,
};

pub(super) const NET_FIREWALL: Rule = Rule {
    id: "net.firewall",
    inspects: "iptables, nftables, ufw and firewalld rules loaded at boot",
    summary: "the firewall does not let SSH in",
    effect: "it starts, and nobody can log in over the network",
    fix: "allow port 22",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: network::firewall,
};

pub(super) const NET_PROXY: Rule = Rule {
    id: "net.proxy",
    inspects: "apt, yum and environment",
    summary: "a proxy of another place is set",
    effect: "updates fail",
    fix: "remove the line",
    impact: Impact::Advice,
    tencent_error: None,
    run: network::proxy,
};

pub(super) const CLOUDINIT_PRESENT: Rule = Rule {
    id: "cloudinit.present",
    inspects: "cloud-init and its units",
    summary: "cloud-init is missing or off",
    effect: "no key, password or host name is set on a new machine",
    fix: "apt install cloud-init, or dnf install cloud-init; rm /etc/cloud/cloud-init.disabled",
    impact: Impact::NoLogin,
    tencent_error: Some("CloudInitNotInstalled"),
    run: login::present,
};

pub(super) const CLOUDINIT_DATASOURCE: Rule = Rule {
    id: "cloudinit.datasource",
    inspects: "datasource_list in cloud.cfg and cloud.cfg.d",
    summary: "cloud-init does not ask the place's data source",
    effect: "no key, password or host name is set on a new machine",
    fix: "echo 'datasource_list: [ ... ]' >/etc/cloud/cloud.cfg.d/99-datasource.cfg",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: login::datasource,
};

pub(super) const CLOUDINIT_STATE: Rule = Rule {
    id: "cloudinit.state",
    inspects: "/var/lib/cloud, rendered network files",
    summary: "an earlier run of cloud-init left its state",
    effect: "a new machine may keep the old one's network or skip its first start",
    fix: "cloud-init clean --logs",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::state,
};

pub(super) const CLOUDINIT_GROWPART: Rule = Rule {
    id: "cloudinit.growpart",
    inspects: "growpart, systemd-repart, growroot",
    summary: "nothing grows the root",
    effect: "a larger disk stays unused",
    fix: "apt install cloud-guest-utils, or dnf install cloud-utils-growpart",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::growpart,
};

pub(super) const AGENT_AZURE: Rule = Rule {
    id: "agent.azure",
    inspects: "waagent",
    summary: "the Azure agent is missing",
    effect: "the platform cannot make the user or report the machine ready",
    fix: "apt install waagent, or dnf install WALinuxAgent",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: login::azure,
};

pub(super) const AGENT_OTHER: Rule = Rule {
    id: "agent.other",
    inspects: "agents of other clouds",
    summary: "an agent of another cloud is installed",
    effect: "it talks to a service that is not there, or changes the network",
    fix: "remove its package",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::other,
};

pub(super) const AGENT_VMTOOLS: Rule = Rule {
    id: "agent.vmtools",
    inspects: "tools of other hypervisors",
    summary: "tools of another hypervisor are installed",
    effect: "they do nothing, or disturb",
    fix: "remove the package",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::tools,
};

pub(super) const AGENT_QGA: Rule = Rule {
    id: "agent.qga",
    inspects: "qemu-guest-agent",
    summary: "the guest agent is missing",
    effect: "backups cannot freeze the file systems",
    fix: "apt install qemu-guest-agent",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::qga,
};

pub(super) const SSH_DAEMON: Rule = Rule {
    id: "ssh.daemon",
    inspects: "sshd, its unit, its host keys",
    summary: "the SSH server is missing, off, or cannot start",
    effect: "it starts, and nobody can log in over the network",
    fix: "apt install openssh-server && systemctl enable ssh",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: login::daemon,
};

pub(super) const SSH_CONFIG: Rule = Rule {
    id: "ssh.config",
    inspects: "sshd_config; owner and permissions on the way to authorized_keys",
    summary: "the SSH server is set up for another place",
    effect: "logins may be refused",
    fix: "change the line",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::config,
};

pub(super) const LOGIN_SHADOW: Rule = Rule {
    id: "login.shadow",
    inspects: "/etc/shadow",
    summary: "passwords cannot be set or are readable",
    effect: "no password can be given to the machine",
    fix: "pwconv; chmod 640 /etc/shadow; chown root:shadow /etc/shadow",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: login::shadow,
};

pub(super) const LOGIN_USER: Rule = Rule {
    id: "login.user",
    inspects: "passwd, shadow, authorized_keys, cloud-init",
    summary: "there is no way to log in",
    effect: "nobody can log in, not even on the console",
    fix: "passwd -u root, or install cloud-init",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: login::user,
};

pub(super) const SELINUX_LABELS: Rule = Rule {
    id: "selinux.labels",
    inspects: "/.autorelabel",
    summary: "all files will be labelled at the first start",
    effect: "the first start takes minutes and starts again",
    fix: "none is needed; wait",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::relabel,
};

pub(super) const SELINUX_STATE: Rule = Rule {
    id: "selinux.state",
    inspects: "/etc/selinux/config",
    summary: "SELinux is enforcing",
    effect: "files changed from outside may be refused",
    fix: "touch /.autorelabel",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::selinux,
};

pub(super) const TIME_RTC: Rule = Rule {
    id: "time.rtc",
    inspects: "/etc/adjtime",
    summary: "the clock is taken for local time",
    effect: "time is wrong by hours until it is set",
    fix: "timedatectl set-local-rtc 0",
    impact: Impact::Advice,
    tencent_error: None,
    run: login::clock,
};

pub(super) const SEC_MACHINE_ID: Rule = Rule {
    id: "sec.machine-id",
    inspects: "/etc/machine-id",
    summary: "the machine's id is in the image",
    effect: "all its machines share it, and get one address from DHCP",
    fix: "truncate -s 0 /etc/machine-id; rm -f /var/lib/dbus/machine-id",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: hygiene::machine_id,
};

pub(super) const SEC_HOSTKEYS: Rule = Rule {
    id: "sec.hostkeys",
    inspects: "/etc/ssh/ssh_host_*",
    summary: "SSH host keys are in the image",
    effect: "anybody with the image can pose as its machines",
    fix: "rm /etc/ssh/ssh_host_*",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: hygiene::host_keys,
};

pub(super) const SEC_AUTHKEYS: Rule = Rule {
    id: "sec.authkeys",
    inspects: "authorized_keys and private keys",
    summary: "keys are in the image",
    effect: "whoever has them can log in to every machine made from it",
    fix: "delete the file",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: hygiene::authorized_keys,
};

pub(super) const SEC_PASSWORD: Rule = Rule {
    id: "sec.password",
    inspects: "passwd and shadow",
    summary: "a password is in the image",
    effect: "it opens every machine made from it",
    fix: "passwd -l USER",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: hygiene::passwords,
};

pub(super) const SEC_BACKDOOR: Rule = Rule {
    id: "sec.backdoor",
    inspects: "users of id 0",
    summary: "there is a second root",
    effect: "it is a usual way to leave a door open",
    fix: "userdel USER",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: hygiene::second_root,
};

pub(super) const SEC_SECRETS: Rule = Rule {
    id: "sec.secrets",
    inspects: "credentials of clouds, registries, repositories; dumps of memory",
    summary: "credentials may be in the image",
    effect: "whoever has the image has them",
    fix: "delete the file, and replace the credentials",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: hygiene::secrets,
};

pub(super) const SEC_SEED: Rule = Rule {
    id: "sec.seed",
    inspects: "random-seed and credential.secret",
    summary: "a secret seed is in the image",
    effect: "all its machines start from the same randomness",
    fix: "rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: hygiene::seed,
};

pub(super) const SEC_HISTORY: Rule = Rule {
    id: "sec.history",
    inspects: "shell histories, known_hosts",
    summary: "histories are in the image",
    effect: "they often hold passwords, and name the machines that were visited",
    fix: "delete the file",
    impact: Impact::Advice,
    tencent_error: None,
    run: hygiene::history,
};

pub(super) const SEC_LOGS: Rule = Rule {
    id: "sec.logs",
    inspects: "/var/log, leases",
    summary: "logs are in the image",
    effect: "they tell about the machine it came from",
    fix: "truncate -s 0 the file; rm -rf /var/log/journal/*",
    impact: Impact::Advice,
    tencent_error: None,
    run: hygiene::logs,
};

pub(super) const NET_IPV6_ONLY: Rule = Rule {
    id: "net.ipv6-only",
    inspects: "families of addresses in ifupdown, netplan, ifcfg, NetworkManager, networkd",
    summary: "the network is of IPv6 only",
    effect: "places that give an address of IPv4 cannot reach it",
    fix: "ask for an address of IPv4 as well: dhcp4: true, DHCP=yes, BOOTPROTO=dhcp, method=auto",
    impact: Impact::Advice,
    tencent_error: None,
    run: network::ipv6_only,
};

pub(super) const SEC_SUID: Rule = Rule {
    id: "sec.suid",
    inspects: "set-uid files in directories of programs, homes and /tmp; permissions of the directories in PATH",
    summary: "a program makes whoever runs it root, or could be replaced by anybody",
    effect: "it is a usual way to leave a door open",
    fix: "look which package it is of (dpkg -S FILE, rpm -qf FILE); if of none: chmod u-s FILE",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: hygiene::set_uid,
};

pub(super) const SEC_FREED_SPACE: Rule = Rule {
    id: "sec.freed-space",
    inspects: "free blocks of the root's file system, some of all (ext2 to ext4)",
    summary: "free blocks hold what was deleted",
    effect: "deleted files can be read by whoever has the image, and it is longer than it need be",
    fix: "in the running guest: fstrim -av; or from outside: zerofree DEVICE, virt-sparsify",
    impact: Impact::Advice,
    tencent_error: None,
    run: hygiene::freed_space,
};

pub(super) const META_OS: Rule = Rule {
    id: "meta.os",
    inspects: "os-release and the programs' machine against what the place can be told",
    summary: "the place must be told something else than what it is",
    effect: "the import asks for a system or a machine that is not in its list",
    fix: "look into the place's list of systems",
    impact: Impact::Advice,
    tencent_error: None,
    run: meta::system,
};

pub(super) const META_LICENSE: Rule = Rule {
    id: "meta.license",
    inspects: "os-release, marks of rented systems (RHUI, SUSE's region server), KeyManagementServiceName",
    summary: "the system's licence is a matter of the place",
    effect: "it may not be activated or get updates there, or be paid for twice",
    fix: "subscribe it at the new place: subscription-manager register, SUSEConnect -r CODE",
    impact: Impact::Advice,
    tencent_error: None,
    run: meta::licence,
};
