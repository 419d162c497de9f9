//! QEMU's words, one by one.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_catalog::machine::{
    CONSOLE_LOG, DiskRole, Forward, Machine, MachineDisk, MachineFirmware, MachineNic, Network,
};

use crate::arch;
use crate::command::{Accelerator, arguments};

fn layer(digit: char) -> kiln_catalog::LayerId {
    format!("sha256:{}", String::from(digit).repeat(64)).parse().unwrap()
}

fn machine() -> Machine {
    let disk = |number: u32, role, layers| MachineDisk {
        id: format!("disk{number}"),
        file: format!("disk{number}.qcow2"),
        disk_bytes: 8 << 30,
        role,
        image: None,
        layers,
        captured: None,
    };
    Machine {
        architecture: "x86_64".to_owned(),
        cpus: 2,
        memory_bytes: 1 << 30,
        firmware: MachineFirmware::Bios,
        uuid: "7546fea7-ae2e-466a-9f95-14a15fb269ba".to_owned(),
        instance_id: "ins-abcdefgh".to_owned(),
        disks: vec![
            disk(0, DiskRole::Root, vec![layer('a'), layer('b')]),
            disk(1, DiskRole::Data, Vec::new()),
        ],
        nics: vec![MachineNic {
            mac: "52:54:00:01:02:03".to_owned(),
            network: Network::User { forwards: vec![Forward { host: 2222, guest: 22 }] },
        }],
        seed: Some("seed.img".to_owned()),
        aside: BTreeMap::new(),
    }
}

#[test]
fn a_bios_machine_of_two_disks_is_these_words() {
    let row = arch::find(None).unwrap();
    let words = arguments(&machine(), "web-1", row, Accelerator::Tcg, None, CONSOLE_LOG);
    let a = "a".repeat(64);
    let b = "b".repeat(64);
    let expected = [
        "-name guest=web-1".to_owned(),
        "-nodefaults".to_owned(),
        "-no-user-config".to_owned(),
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
        "-accel tcg,thread=multi".to_owned(),
        "-cpu max".to_owned(),
        "-machine pc".to_owned(),
        "-smp 2".to_owned(),
        "-m size=1024M".to_owned(),
        "-uuid 7546fea7-ae2e-466a-9f95-14a15fb269ba".to_owned(),
        "-rtc base=utc".to_owned(),
        "-boot strict=on".to_owned(),
        "-display none".to_owned(),
        r#"-device {"driver":"VGA","id":"video0"}"#.to_owned(),
        "-chardev socket,id=control,path=control.sock,server=on,wait=off".to_owned(),
        "-mon chardev=control,mode=control".to_owned(),
        "-chardev socket,id=qmp,path=qmp.sock,server=on,wait=off".to_owned(),
        "-mon chardev=qmp,mode=control".to_owned(),
        "-chardev socket,id=console,path=console.sock,server=on,wait=off,logfile=console.log,logappend=on"
            .to_owned(),
        "-serial chardev:console".to_owned(),
        "-chardev socket,id=agent,path=agent.sock,server=on,wait=off".to_owned(),
        r#"-device {"driver":"virtio-serial-pci","id":"serial0"}"#.to_owned(),
        r#"-device {"bus":"serial0.0","chardev":"agent","driver":"virtserialport","id":"agent0","name":"org.qemu.guest_agent.0"}"#.to_owned(),
        "-object rng-random,id=random,filename=/dev/urandom".to_owned(),
        r#"-device {"driver":"virtio-rng-pci","id":"rng0","rng":"random"}"#.to_owned(),
        format!(r#"-blockdev {{"backing":null,"driver":"qcow2","file":{{"driver":"file","filename":"../../layers/aa/{a}.qcow2","read-only":true}},"node-name":"disk0-layer0","read-only":true}}"#),
        format!(r#"-blockdev {{"backing":"disk0-layer0","driver":"qcow2","file":{{"driver":"file","filename":"../../layers/bb/{b}.qcow2","read-only":true}},"node-name":"disk0-layer1","read-only":true}}"#),
        r#"-blockdev {"backing":"disk0-layer1","discard":"unmap","driver":"qcow2","file":{"discard":"unmap","driver":"file","filename":"disk0.qcow2"},"node-name":"disk0-overlay"}"#.to_owned(),
        r#"-blockdev {"discard":"unmap","driver":"raw","file":"disk0-overlay","node-name":"disk0"}"#.to_owned(),
        r#"-device {"bootindex":1,"drive":"disk0","driver":"virtio-blk-pci","id":"disk0-dev","serial":"disk0"}"#.to_owned(),
        r#"-blockdev {"backing":null,"discard":"unmap","driver":"qcow2","file":{"discard":"unmap","driver":"file","filename":"disk1.qcow2"},"node-name":"disk1-overlay"}"#.to_owned(),
        r#"-blockdev {"discard":"unmap","driver":"raw","file":"disk1-overlay","node-name":"disk1"}"#.to_owned(),
        r#"-device {"drive":"disk1","driver":"virtio-blk-pci","id":"disk1-dev","serial":"disk1"}"#.to_owned(),
        r#"-blockdev {"driver":"raw","file":{"driver":"file","filename":"seed.img","read-only":true},"node-name":"seed","read-only":true}"#.to_owned(),
        r#"-device {"drive":"seed","driver":"virtio-blk-pci","id":"seed-dev","serial":"seed"}"#.to_owned(),
        r#"-netdev {"hostfwd":[{"str":"tcp:127.0.0.1:2222-:22"}],"id":"net0","type":"user"}"#.to_owned(),
        r#"-device {"driver":"virtio-net-pci","id":"net0-dev","mac":"52:54:00:01:02:03","netdev":"net0","romfile":""}"#.to_owned(),
    ];
    assert_eq!(words.join(" "), expected.join(" "));
}

#[test]
fn uefi_tap_and_kvm_change_only_their_words() {
    let row = arch::find(Some("amd64")).unwrap();
    let mut machine = machine();
    machine.firmware = MachineFirmware::Uefi;
    machine.nics[0].network = Network::Tap { name: "tap7".to_owned() };
    let words =
        arguments(&machine, "web-1", row, Accelerator::Kvm, Some(Path::new("/fw/CODE.fd")), CONSOLE_LOG);
    let has = |word: &str, value: &str| words.windows(2).any(|pair| pair == [word, value]);
    assert!(has("-machine", "q35,pflash0=firmware,pflash1=vars"));
    assert!(has("-accel", "kvm") && has("-cpu", "host"));
    assert!(has(
        "-blockdev",
        r#"{"driver":"raw","file":{"driver":"file","filename":"/fw/CODE.fd","read-only":true},"node-name":"firmware","read-only":true}"#
    ));
    assert!(has(
        "-blockdev",
        r#"{"driver":"raw","file":{"driver":"file","filename":"vars.fd"},"node-name":"vars"}"#
    ));
    assert!(has("-netdev", r#"{"downscript":"no","id":"net0","ifname":"tap7","script":"no","type":"tap"}"#));
}

#[test]
fn a_guest_of_another_architecture_is_refused() {
    assert_eq!(arch::find(Some("i686")).unwrap().name, "x86_64");
    assert_eq!(arch::find(Some("aarch64")).unwrap_err().code(), "instance.architecture");
}
