//! The texts of a seed. All but the user's own are JSON, which is also YAML, so that no text needs quoting rules of
//! its own.

use std::fmt;

use serde_json::{Map, Value, json};

/// The longest user data, in bytes. Clouds take 16 to 64 KiB; this is for whoever carries a small archive.
pub(super) const MAX_USER_DATA: u64 = 8 << 20;

/// What stands in place of user data when none was given. cloud-init warns about an absent file.
pub(super) const NO_USER_DATA: &[u8] = b"#cloud-config\n{}\n";

/// What the owner gives a guest to do. Never printed, not even by `{:?}`: it is where passwords are.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(Vec<u8>);

/// Why bytes are no user data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UserDataProblem {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Too much.
    #[error("it has {len} bytes, at most {MAX_USER_DATA} are handed on")]
    TooLong {
        /// How much.
        len: u64,
    },
    /// cloud-init would not know what to do with it.
    #[error("cloud-init would ignore it: its first line is none that it knows")]
    UnknownKind,
}

/// How cloud-init tells kinds of user data apart (cloudinit/handlers/__init__.py, INCLUSION_TYPES_MAP).
const STARTS: [&[u8]; 11] = [
    b"#cloud-config",
    b"#!",
    b"#include",
    b"#cloud-boothook",
    b"#part-handler",
    b"#cloud-config-archive",
    b"#cloud-config-jsonp",
    b"#upstart-job",
    b"## template",
    b"Content-Type:",
    b"From nobody ",
];

impl UserData {
    /// Takes the bytes of a user data file.
    ///
    /// # Errors
    /// [`UserDataProblem`], which says nothing of the content.
    pub fn new(bytes: Vec<u8>) -> Result<Self, UserDataProblem> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if bytes.is_empty() {
            return Err(UserDataProblem::Empty);
        }
        if len > MAX_USER_DATA {
            return Err(UserDataProblem::TooLong { len });
        }
        let gzip = bytes.starts_with(&[0x1f, 0x8b]);
        let mime = bytes
            .get(..4096)
            .unwrap_or(&bytes)
            .windows(13)
            .any(|part| part.eq_ignore_ascii_case(b"mime-version:"));
        if gzip || mime || STARTS.iter().any(|start| bytes.starts_with(start)) {
            Ok(Self(bytes))
        } else {
            Err(UserDataProblem::UnknownKind)
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How much it is.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes)", self.0.len())
    }
}

/// A network card, as a guest is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedNic {
    /// Its hardware address.
    pub mac: String,
    /// Whether it is connected to anything.
    pub connected: bool,
}

/// Who a guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// cloud-init sets a guest up once for each of these.
    pub instance_id: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// Its name: letters, digits and hyphens.
    pub hostname: String,
    /// Public keys that may log in, one line each.
    pub ssh_keys: Vec<String>,
    /// Its network cards.
    pub nics: Vec<SeedNic>,
}

fn text(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// NoCloud's `meta-data`.
pub(super) fn meta_data(identity: &Identity) -> String {
    let mut meta = json!({
        "instance-id": identity.instance_id,
        "local-hostname": identity.hostname,
    });
    if let (Some(meta), false) = (meta.as_object_mut(), identity.ssh_keys.is_empty()) {
        meta.insert("public-keys".to_owned(), identity.ssh_keys.clone().into());
    }
    text(&meta)
}

/// NoCloud's `network-config`, version 1: the one that every cloud-init since 2016 reads.
pub(super) fn network_config(identity: &Identity) -> String {
    let cards = identity.nics.iter().enumerate().filter(|(_, nic)| nic.connected).map(|(number, nic)| {
        json!({
            "type": "physical",
            "name": format!("eth{number}"),
            "mac_address": nic.mac,
            "subnets": [{ "type": "dhcp" }],
        })
    });
    text(&json!({ "version": 1, "config": cards.collect::<Vec<_>>() }))
}

/// ConfigDrive's `meta_data.json`. Its `uuid` is what cloud-init takes for the instance-id.
pub(super) fn openstack_meta_data(identity: &Identity) -> String {
    let keys: Map<String, Value> = identity
        .ssh_keys
        .iter()
        .enumerate()
        .map(|(number, key)| (format!("key-{number}"), key.clone().into()))
        .collect();
    text(&json!({
        "uuid": identity.uuid,
        "name": identity.hostname,
        "hostname": identity.hostname,
        "public_keys": keys,
    }))
}

/// ConfigDrive's `network_data.json`.
pub(super) fn openstack_network(identity: &Identity) -> String {
    let connected = || identity.nics.iter().enumerate().filter(|(_, nic)| nic.connected);
    let links = connected().map(|(number, nic)| {
        json!({ "id": format!("nic{number}"), "type": "phy", "ethernet_mac_address": nic.mac, "mtu": 1500 })
    });
    let networks = connected().map(|(number, _)| {
        json!({ "id": format!("network{number}"), "type": "ipv4_dhcp", "link": format!("nic{number}"),
            "network_id": format!("network{number}") })
    });
    text(&json!({
        "links": links.collect::<Vec<_>>(),
        "networks": networks.collect::<Vec<_>>(),
        "services": [],
    }))
}
