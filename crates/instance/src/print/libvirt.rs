//! libvirt's domain XML. Source: libvirt.org, formatdomain; `backingStore` names what lies below an overlay whose file
//! names nothing.

use std::path::Path;

use kiln_catalog::machine::{AGENT_SOCKET, MachineDisk, MachineFirmware, Network};
use kiln_catalog::{InstanceRecord, Store, layer_from_instance};

use crate::arch;
use crate::command::{Accelerator, VARS};
use crate::error::Result;
use crate::host::Host;
use crate::process::title;

/// The domain of an instance. The instance must not run by Kiln and by libvirt at once; QEMU's file locks refuse that.
///
/// # Errors
/// [`crate::Failure::NoFirmware`], [`crate::Failure::NoProgram`].
pub fn libvirt(store: &Store, record: &InstanceRecord, host: &Host) -> Result<String> {
    let machine = &record.machine;
    let dir = std::path::absolute(store.instance_dir(&record.id)).unwrap_or(store.instance_dir(&record.id));
    let architecture = arch::find(Some(&machine.architecture))?;
    let (kind, cpu) = match host.accelerator() {
        Accelerator::Kvm => ("kvm", "  <cpu mode='host-passthrough'/>\n"),
        Accelerator::Tcg => ("qemu", "  <cpu mode='maximum'/>\n"),
    };
    let mut xml = format!("<domain type='{kind}'>\n");
    line(&mut xml, 2, &format!("<name>{}</name>", escaped(&title(record))));
    line(&mut xml, 2, &format!("<uuid>{}</uuid>", machine.uuid));
    line(&mut xml, 2, &format!("<memory unit='KiB'>{}</memory>", machine.memory_bytes.div_ceil(1024)));
    line(&mut xml, 2, &format!("<vcpu>{}</vcpu>", machine.cpus));
    line(&mut xml, 2, "<os>");
    let name = architecture.machine(machine.firmware);
    line(&mut xml, 4, &format!("<type arch='{}' machine='{name}'>hvm</type>", architecture.name));
    if machine.firmware == MachineFirmware::Uefi {
        let (code, _) = architecture.uefi_files()?;
        line(&mut xml, 4, &format!("<loader readonly='yes' type='pflash'>{}</loader>", path(code)));
        line(&mut xml, 4, &format!("<nvram>{}</nvram>", path(&dir.join(VARS))));
    }
    line(&mut xml, 2, "</os>");
    line(&mut xml, 2, "<features><acpi/><apic/></features>");
    xml.push_str(cpu);
    line(&mut xml, 2, "<clock offset='utc'/>");
    line(&mut xml, 2, "<devices>");
    let program = architecture.emulator_in(host.path())?;
    line(&mut xml, 4, &format!("<emulator>{}</emulator>", path(&program)));
    for (number, disk) in machine.disks.iter().enumerate() {
        disk_of(&mut xml, &dir, disk, number);
    }
    if let Some(seed) = &machine.seed {
        line(&mut xml, 4, "<disk type='file' device='disk'>");
        line(&mut xml, 6, "<driver name='qemu' type='raw'/>");
        line(&mut xml, 6, &format!("<source file='{}'/>", path(&dir.join(seed))));
        let target = letters(machine.disks.len());
        line(&mut xml, 6, &format!("<target dev='vd{target}' bus='virtio'/>"));
        line(&mut xml, 6, "<serial>seed</serial>");
        line(&mut xml, 6, "<readonly/>");
        line(&mut xml, 4, "</disk>");
    }
    for nic in &machine.nics {
        let (kind, source) = match &nic.network {
            Network::User { .. } => ("user", String::new()),
            Network::Tap { name } => ("ethernet", format!("<target dev='{}' managed='no'/>", escaped(name))),
            Network::None => continue,
        };
        line(&mut xml, 4, &format!("<interface type='{kind}'>"));
        line(&mut xml, 6, &format!("<mac address='{}'/>", escaped(&nic.mac)));
        if !source.is_empty() {
            line(&mut xml, 6, &source);
        }
        line(&mut xml, 6, "<model type='virtio'/>");
        line(&mut xml, 4, "</interface>");
    }
    line(&mut xml, 4, "<serial type='pty'/>");
    line(&mut xml, 4, "<console type='pty'/>");
    line(&mut xml, 4, "<channel type='unix'>");
    line(&mut xml, 6, &format!("<source mode='bind' path='{}'/>", path(&dir.join(AGENT_SOCKET))));
    line(&mut xml, 6, "<target type='virtio' name='org.qemu.guest_agent.0'/>");
    line(&mut xml, 4, "</channel>");
    line(&mut xml, 4, "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>");
    line(&mut xml, 4, "<video><model type='vga'/></video>");
    line(&mut xml, 2, "</devices>");
    xml.push_str("</domain>\n");
    Ok(xml)
}

fn disk_of(xml: &mut String, dir: &Path, disk: &MachineDisk, number: usize) {
    line(xml, 4, "<disk type='file' device='disk'>");
    line(xml, 6, "<driver name='qemu' type='qcow2' discard='unmap'/>");
    line(xml, 6, &format!("<source file='{}'/>", path(&dir.join(&disk.file))));
    let mut indent = 6;
    for layer in disk.layers.iter().rev() {
        line(xml, indent, "<backingStore type='file'>");
        indent += 2;
        line(xml, indent, "<format type='qcow2'/>");
        let file = dir.join(layer_from_instance(layer));
        let file = std::fs::canonicalize(&file).unwrap_or(file);
        line(xml, indent, &format!("<source file='{}'/>", path(&file)));
    }
    line(xml, indent, "<backingStore/>");
    for _ in &disk.layers {
        indent -= 2;
        line(xml, indent, "</backingStore>");
    }
    line(xml, 6, &format!("<target dev='vd{}' bus='virtio'/>", letters(number)));
    line(xml, 6, &format!("<serial>{}</serial>", escaped(&disk.id)));
    if number == 0 {
        line(xml, 6, "<boot order='1'/>");
    }
    line(xml, 4, "</disk>");
}

/// `a`, `b`, ...: at most 17 disks are made.
fn letters(number: usize) -> char {
    char::from(b'a' + u8::try_from(number % 26).unwrap_or(0))
}

fn line(xml: &mut String, indent: usize, text: &str) {
    xml.push_str(&" ".repeat(indent));
    xml.push_str(text);
    xml.push('\n');
}

fn path(path: &Path) -> String {
    escaped(&path.display().to_string())
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            char => out.push(char),
        }
    }
    out
}
