//! QEMU's command line for an instance: a pure function of its record, so that what is run can be tested word by word.
//!
//! Files and sockets are named relative to the instance's folder, which is QEMU's working directory. No secret is
//! among the words: user data and keys are in the seed's file.

use std::path::Path;

use kiln_catalog::layer_from_instance;
use kiln_catalog::machine::{
    AGENT_SOCKET, CONSOLE_SOCKET, Machine, MachineDisk, MachineFirmware, Network, QMP_SOCKET,
};
use serde_json::{Value, json};

use crate::arch::Architecture;

/// Our own QMP socket: QEMU serves one client a socket, and a capture may hold [`QMP_SOCKET`] for minutes.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
/// UEFI variables of the instance.
pub(crate) const VARS: &str = "vars.fd";

/// What runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accelerator {
    /// QEMU's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The words behind the program's name. `name` is how the instance is called; `uefi` the firmware's code, for
/// machines that have one; `console` the file that gets what the serial console prints.
#[must_use]
pub fn arguments(
    machine: &Machine,
    name: &str,
    architecture: &Architecture,
    accelerator: Accelerator,
    uefi: Option<&Path>,
    console: &str,
) -> Vec<String> {
    let mut words = Words::default();
    words.pair("-name", format!("guest={name}"));
    words.flag("-nodefaults");
    words.flag("-no-user-config");
    words.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
    );
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg,thread=multi", "max"),
    };
    words.pair("-accel", accel.to_owned());
    words.pair("-cpu", cpu.to_owned());
    let mut kind = architecture.machine(machine.firmware).to_owned();
    if let (MachineFirmware::Uefi, Some(code)) = (machine.firmware, uefi) {
        kind.push_str(",pflash0=firmware,pflash1=vars");
        words.node(&json!({ "driver": "raw", "node-name": "firmware", "read-only": true,
            "file": { "driver": "file", "filename": code.display().to_string(), "read-only": true } }));
        words.node(&json!({ "driver": "raw", "node-name": "vars",
            "file": { "driver": "file", "filename": VARS } }));
    }
    words.pair("-machine", kind);
    words.pair("-smp", machine.cpus.to_string());
    words.pair("-m", format!("size={}M", machine.memory_bytes.div_ceil(1 << 20)));
    words.pair("-uuid", machine.uuid.clone());
    words.pair("-rtc", "base=utc".to_owned());
    words.pair("-boot", "strict=on".to_owned());
    words.pair("-display", "none".to_owned());
    words.device(&json!({ "driver": "VGA", "id": "video0" }));
    for (id, socket) in [("control", CONTROL_SOCKET), ("qmp", QMP_SOCKET)] {
        words.pair("-chardev", format!("socket,id={id},path={socket},server=on,wait=off"));
        words.pair("-mon", format!("chardev={id},mode=control"));
    }
    words.pair(
        "-chardev",
        format!("socket,id=console,path={CONSOLE_SOCKET},server=on,wait=off,logfile={console},logappend=on"),
    );
    words.pair("-serial", "chardev:console".to_owned());
    words.pair("-chardev", format!("socket,id=agent,path={AGENT_SOCKET},server=on,wait=off"));
    words.device(&json!({ "driver": "virtio-serial-pci", "id": "serial0" }));
    words
        .device(&json!({ "driver": "virtserialport", "bus": "serial0.0", "chardev": "agent", "id": "agent0",
        "name": "org.qemu.guest_agent.0" }));
    words.pair("-object", "rng-random,id=random,filename=/dev/urandom".to_owned());
    words.device(&json!({ "driver": "virtio-rng-pci", "id": "rng0", "rng": "random" }));
    for disk in &machine.disks {
        words.disk(disk);
    }
    if let Some(seed) = &machine.seed {
        words.node(&json!({ "driver": "raw", "node-name": "seed", "read-only": true,
            "file": { "driver": "file", "filename": seed, "read-only": true } }));
        words.device(
            &json!({ "driver": "virtio-blk-pci", "id": "seed-dev", "drive": "seed", "serial": "seed" }),
        );
    }
    for (number, nic) in machine.nics.iter().enumerate() {
        words.nic(number, &nic.mac, &nic.network);
    }
    words.list
}

#[derive(Default)]
struct Words {
    list: Vec<String>,
}

impl Words {
    fn flag(&mut self, word: &str) {
        self.list.push(word.to_owned());
    }

    fn pair(&mut self, word: &str, value: String) {
        self.list.extend([word.to_owned(), value]);
    }

    fn node(&mut self, value: &Value) {
        self.pair("-blockdev", value.to_string());
    }

    fn device(&mut self, value: &Value) {
        self.pair("-device", value.to_string());
    }

    /// The nodes of a disk from the base up, then the device.
    fn disk(&mut self, disk: &MachineDisk) {
        let id = &disk.id;
        let mut below = Value::Null;
        for (number, layer) in disk.layers.iter().enumerate() {
            let node = format!("{id}-layer{number}");
            self.node(&json!({ "driver": "qcow2", "node-name": node, "read-only": true, "backing": below,
                "file": { "driver": "file", "filename": layer_from_instance(layer), "read-only": true } }));
            below = node.into();
        }
        self.node(&json!({ "driver": "qcow2", "node-name": format!("{id}-overlay"), "discard": "unmap",
            "backing": below, "file": { "driver": "file", "filename": disk.file, "discard": "unmap" } }));
        self.node(
            &json!({ "driver": "raw", "node-name": id, "discard": "unmap", "file": format!("{id}-overlay") }),
        );
        let mut device =
            json!({ "driver": "virtio-blk-pci", "id": format!("{id}-dev"), "drive": id, "serial": id });
        if disk.role == kiln_catalog::machine::DiskRole::Root
            && let Some(device) = device.as_object_mut()
        {
            device.insert("bootindex".to_owned(), 1.into());
        }
        self.device(&device);
    }

    fn nic(&mut self, number: usize, mac: &str, network: &Network) {
        let id = format!("net{number}");
        let mut device =
            json!({ "driver": "virtio-net-pci", "id": format!("{id}-dev"), "mac": mac, "romfile": "" });
        let backend = match network {
            Network::None => None,
            Network::Tap { name } => Some(json!({ "type": "tap", "id": id, "ifname": name, "script": "no",
                "downscript": "no" })),
            Network::User { forwards } => {
                let rule = |forward: &kiln_catalog::machine::Forward| json!({ "str": format!("tcp:127.0.0.1:{}-:{}", forward.host, forward.guest) });
                let rules: Vec<Value> = forwards.iter().map(rule).collect();
                Some(json!({ "type": "user", "id": id, "hostfwd": rules }))
            }
        };
        if let (Some(backend), Some(device)) = (backend, device.as_object_mut()) {
            self.pair("-netdev", backend.to_string());
            device.insert("netdev".to_owned(), id.into());
        }
        self.device(&device);
    }
}
