//! Disks with the skeleton of a Windows: what a firmware, a boot manager and a loader look for, and the registry, with
//! nothing of Microsoft's in it. The file systems are made by ntfs-3g and mtools, the hives by hivexsh; NTFS is mounted
//! to fill it (FUSE), as only its driver makes directories.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// First byte of drive C under a BIOS, and of the EFI system partition.
pub const FIRST: u64 = 1 << 20;
/// Bytes of drive C, and of the EFI system partition.
const DRIVE: u64 = 48 << 20;
const ESP: u64 = 16 << 20;
/// The boot manager's object and the entry that it starts.
const MANAGER: &str = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}";
const ENTRY: &str = "{b2721d73-1db4-4c62-bf78-c548a880142d}";

/// The firewall's policy in SYSTEM.
pub const FIREWALL: &str = "ControlSet001\\Services\\SharedAccess\\Parameters\\FirewallPolicy";
/// The servicing stack in SOFTWARE.
pub const SERVICING: &str = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing";

/// A registry hive to be made: keys with their values in hivexsh's words ("dword:1", "string:text").
#[derive(Debug, Clone, Default)]
pub struct Registry(BTreeMap<String, BTreeMap<String, String>>);

impl Registry {
    /// Sets a value, and makes the key.
    pub fn set(&mut self, key: &str, name: &str, value: &str) {
        self.key(key).insert(name.to_owned(), value.to_owned());
    }

    /// Makes a key.
    pub fn key(&mut self, key: &str) -> &mut BTreeMap<String, String> {
        self.0.entry(key.to_owned()).or_default()
    }

    /// Removes a key and all below it.
    pub fn remove(&mut self, key: &str) {
        let below = format!("{key}\\");
        self.0.retain(|known, _| known != key && !known.starts_with(&below));
    }

    /// A driver: its key in Services.
    pub fn driver(&mut self, name: &str, start: u32) {
        let key = format!("ControlSet001\\Services\\{name}");
        self.set(&key, "Start", &format!("dword:{start}"));
        self.set(&key, "Type", "dword:1");
        self.set(&key, "ImagePath", &format!("expandstring:System32\\drivers\\{name}.sys"));
    }

    /// A package of the servicing stack, with the state that it came to.
    pub fn package(&mut self, name: &str, state: u32) {
        let key = format!("{SERVICING}\\Packages\\{name}");
        self.set(&key, "CurrentState", &format!("dword:{state}"));
    }

    /// Makes the hive's file.
    ///
    /// # Panics
    /// When hivexsh fails.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, empty_hive()).expect("a hive's file");
        let (mut script, mut made) = (String::new(), std::collections::BTreeSet::new());
        for (key, values) in &self.0 {
            let mut at = String::from("\\ ");
            let mut parent = String::new();
            for name in key.split('\\') {
                let full = format!("{parent}\\{name}");
                if made.insert(full.to_lowercase()) {
                    script.push_str(&format!("cd {at}\nadd {name}\n"));
                }
                (at, parent) = (full.clone(), full);
            }
            script.push_str(&format!("cd {at}\nsetval {}\n", values.len()));
            for (name, value) in values {
                script.push_str(&format!("{name}\n{value}\n"));
            }
        }
        script.push_str("commit\n");
        let mut child = Command::new("hivexsh")
            .args(["-w".as_ref(), path.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hivexsh is installed by `make setup`");
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("hivexsh reads");
        let output = child.wait_with_output().expect("hivexsh ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "hivexsh: {errors}\n{script}");
    }
}

/// A list of texts as hivexsh takes it: REG_MULTI_SZ.
#[must_use]
pub fn texts(all: &[&str]) -> String {
    let text = all.iter().map(|text| format!("{text}\0")).collect::<String>() + "\0";
    let bytes: Vec<String> =
        text.encode_utf16().flat_map(u16::to_le_bytes).map(|byte| format!("{byte:02x}")).collect();
    format!("hex:7:{}", bytes.join(","))
}

/// A hive with a root and nothing in it (`regf` 1.3): hivexsh adds to a hive and makes none.
#[must_use]
pub fn empty_hive() -> Vec<u8> {
    let mut bytes = vec![0_u8; 8192];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    let word = |value: u32| value.to_le_bytes();
    put(0, b"regf");
    for (at, value) in [(4, 1), (8, 1), (20, 1), (24, 3), (32, 1), (36, 0x20), (40, 4096), (44, 1)] {
        put(at, &word(value));
    }
    put(4096, b"hbin");
    put(4096 + 8, &word(4096));
    // The root: a key of 88 bytes, then its security of 48 bytes, then a free cell.
    let root = 4096 + 0x20;
    put(root, &(-96_i32).to_le_bytes());
    put(root + 4, b"nk\x2c\0");
    for (at, value) in [(28, u32::MAX), (32, u32::MAX), (40, u32::MAX), (44, 0x80), (48, u32::MAX)] {
        put(root + 4 + at, &word(value));
    }
    put(root + 4 + 72, &[4, 0]);
    put(root + 4 + 76, b"ROOT");
    let security = 4096 + 0x80;
    put(security, &(-48_i32).to_le_bytes());
    put(security + 4, b"sk");
    for (at, value) in [(4, 0x80), (8, 0x80), (12, 1), (16, 20)] {
        put(security + 4 + at, &word(value));
    }
    put(security + 4 + 20, &[1, 0, 0, 0x80]);
    put(4096 + 0xb0, &word(4096 - 0xb0));
    let sum = bytes[..508]
        .chunks_exact(4)
        .fold(0, |sum, word| sum ^ u32::from_le_bytes(word.try_into().expect("four bytes")));
    bytes[508..512].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The head of a program of Windows for a machine (PE).
#[must_use]
pub fn program(machine: u16) -> Vec<u8> {
    let mut bytes = vec![0_u8; 1024];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
    bytes
}

/// x86_64 and i386 in a PE header.
pub const AMD64: u16 = 0x8664;
/// See [`AMD64`].
pub const I386: u16 = 0x014c;

/// What a disk is made of.
#[derive(Debug, Clone)]
pub struct Windows {
    /// GPT with an EFI system partition; else MBR with one active partition.
    pub uefi: bool,
    /// SYSTEM.
    pub system: Registry,
    /// SOFTWARE.
    pub software: Registry,
    /// The boot configuration; none for no file.
    pub bcd: Option<Registry>,
    /// Files of drive C.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files of the EFI system partition.
    pub esp: BTreeMap<String, Vec<u8>>,
    /// Whether the volume's dirty flag is set.
    pub dirty: bool,
    /// Under a BIOS: boot manager and configuration on a partition of their own, as Windows' setup does.
    pub system_partition: bool,
    /// The file that the boot sector names: "BOOTMGR", or "NTLDR" before Windows Vista.
    pub loads: &'static str,
}

/// Drivers of the skeleton: a Windows Server 2022 in which every place's drivers are in order.
const BOOT: [&str; 9] =
    ["pci", "viostor", "vioscsi", "vmbus", "storvsc", "stornvme", "storahci", "LSI_SAS", "partmgr"];
const LATER: [&str; 3] = ["netkvm", "netvsc", "ena"];

impl Windows {
    /// A Windows Server 2022 that has everything.
    #[must_use]
    pub fn new(uefi: bool) -> Self {
        let (mut system, mut software, mut files) =
            (Registry::default(), Registry::default(), BTreeMap::new());
        for name in ["Current", "Default", "LastKnownGood"] {
            system.set("Select", name, "dword:1");
        }
        system.set("Setup", "SystemSetupInProgress", "dword:0");
        let control = "ControlSet001\\Control";
        system.set(&format!("{control}\\ComputerName\\ComputerName"), "ComputerName", "string:WIN-KILN");
        system.set(&format!("{control}\\Terminal Server"), "fDenyTSConnections", "dword:0");
        system.set(&format!("{control}\\TimeZoneInformation"), "RealTimeIsUniversal", "dword:1");
        let disks = format!("{control}\\Class\\{{4d36e967-e325-11ce-bfc1-08002be10318}}");
        system.set(&disks, "UpperFilters", &texts(&["partmgr"]));
        for id in ["VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00", "VEN_1AF4&DEV_1004&SUBSYS_00081AF4&REV_00"] {
            system.key(&format!("DriverDatabase\\DeviceIds\\PCI\\{id}"));
        }
        let memory = format!("{control}\\Session Manager\\Memory Management");
        system.set(&memory, "PagingFiles", &texts(&["?:\\pagefile.sys"]));
        system.set("ControlSet001\\Services\\MpsSvc", "Start", "dword:2");
        system.set(&format!("{FIREWALL}\\PublicProfile"), "EnableFirewall", "dword:1");
        system.set(
            &format!("{FIREWALL}\\FirewallRules"),
            "RemoteDesktop-UserMode-In-TCP",
            "string:v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=3389|App=%SystemRoot%\\system32\\svchost.exe|\
Svc=termservice|Name=@FirewallAPI.dll,-28775|EmbedCtxt=@FirewallAPI.dll,-28752|",
        );
        for (names, start) in [(&BOOT[..], 0), (&LATER[..], 3)] {
            for name in names {
                system.driver(name, start);
                files.insert(format!("Windows/System32/drivers/{name}.sys"), program(AMD64));
            }
        }
        for agent in ["cloudbase-init", "RdAgent", "AmazonEC2Launch", "GCEAgent"] {
            system.set(&format!("ControlSet001\\Services\\{agent}"), "Start", "dword:2");
        }
        let version = "Microsoft\\Windows NT\\CurrentVersion";
        for (name, value) in [
            ("ProductName", "string:Windows Server 2022 Datacenter"),
            ("CurrentVersion", "string:6.3"),
            ("CurrentBuildNumber", "string:20348"),
            ("CurrentMajorVersionNumber", "dword:10"),
            ("CurrentMinorVersionNumber", "dword:0"),
            ("UBR", "dword:2113"),
            ("DisplayVersion", "string:21H2"),
            ("EditionID", "string:ServerDatacenter"),
            ("InstallationType", "string:Server Core"),
        ] {
            software.set(version, name, value);
        }
        software.package("Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2113.1.8", 0x70);
        let state = "Microsoft\\Windows\\CurrentVersion\\Setup\\State";
        software.set(state, "ImageState", "string:IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE");
        files.insert("Windows/System32/ntoskrnl.exe".to_owned(), program(AMD64));
        let loader = if uefi { "winload.efi" } else { "winload.exe" };
        files.insert(format!("Windows/System32/{loader}"), program(AMD64));
        let mut windows = Self {
            uefi,
            system,
            software,
            bcd: Some(bcd(&format!("\\windows\\system32\\{loader}"))),
            files,
            esp: BTreeMap::new(),
            dirty: false,
            system_partition: false,
            loads: "BOOTMGR",
        };
        if uefi {
            for path in ["EFI/Microsoft/Boot/bootmgfw.efi", "EFI/Boot/bootx64.efi"] {
                windows.esp.insert(path.to_owned(), program(AMD64));
            }
        } else {
            windows.files.insert("bootmgr".to_owned(), b"the boot manager".to_vec());
        }
        windows
    }

    /// Makes the disk `name`.raw in a directory.
    ///
    /// # Panics
    /// When a tool fails: the machine is not as it must be.
    #[must_use]
    pub fn write(mut self, dir: &Path, name: &str) -> PathBuf {
        let work = dir.join(format!("{name}.work"));
        std::fs::create_dir_all(&work).expect("a directory");
        let hive = |registry: &Registry, name: &str| {
            let path = work.join(name);
            registry.write(&path);
            std::fs::read(path).expect("a hive")
        };
        for (name, registry) in [("SYSTEM", &self.system), ("SOFTWARE", &self.software)] {
            let path = format!("Windows/System32/config/{name}");
            let made = hive(registry, name);
            self.files.entry(path).or_insert(made);
        }
        if let Some(registry) = &self.bcd {
            let made = hive(registry, "BCD");
            match self.uefi {
                true => self.esp.entry("EFI/Microsoft/Boot/BCD".to_owned()).or_insert(made),
                false => self.files.entry("Boot/BCD".to_owned()).or_insert(made),
            };
        }
        let drive = work.join("c");
        let at = if self.uefi || self.system_partition { FIRST + ESP } else { FIRST };
        let boots = |path: &str| path.starts_with("Boot/") || path == "bootmgr";
        let fill = |root: &Path, of_system: bool| {
            let files =
                self.files.iter().filter(|(path, _)| (boots(path) && self.system_partition) == of_system);
            for (path, bytes) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory on C");
                std::fs::write(path, bytes).expect("a file on C");
            }
        };
        let mount = work.join("mnt");
        ntfs(&[], &drive, (DRIVE, at), &mount, |root| fill(root, false));
        let system = work.join("system");
        if self.system_partition {
            ntfs(&[], &system, (ESP, FIRST), &mount, |root| fill(root, true));
        }
        if self.dirty {
            // Without -d it asks for a check at the next start.
            tool("ntfsfix", &[text(&drive)]);
        }
        // What Windows' format writes there: the name of the file that the boot sector loads.
        let name_of_manager: Vec<u8> = self.loads.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for volume in [&drive, &system].into_iter().filter(|volume| volume.exists()) {
            let file = File::options().write(true).open(volume).expect("a volume");
            file.write_all_at(&name_of_manager, 514).expect("the boot sector");
            // mkntfs takes the volume's id from the clock: two of one second have the same.
            file.write_all_at(&[u8::from(volume == &drive)], 79).expect("the boot sector");
        }
        let disk = dir.join(format!("{name}.raw"));
        if self.uefi {
            self.gpt(&disk, &drive, &work);
        } else {
            let system = self.system_partition.then_some(system.as_path());
            mbr(&disk, &drive, system);
        }
        std::fs::remove_dir_all(work).expect("the work goes");
        disk
    }

    fn gpt(&self, disk: &Path, drive: &Path, work: &Path) {
        let esp = work.join("esp");
        File::create(&esp).and_then(|file| file.set_len(ESP)).expect("the ESP");
        tool("mkfs.vfat", &["-F", "16", text(&esp)]);
        let mut made = std::collections::BTreeSet::new();
        for (path, bytes) in &self.esp {
            let names: Vec<&str> = path.split('/').collect();
            for depth in 1..names.len() {
                let dir = names[..depth].join("/");
                if made.insert(dir.to_lowercase()) {
                    tool("mmd", &["-i", text(&esp), &format!("::/{dir}")]);
                }
            }
            let file = work.join("file");
            std::fs::write(&file, bytes).expect("a scratch file");
            tool("mcopy", &["-i", text(&esp), text(&file), &format!("::/{path}")]);
        }
        let target = File::create(disk).expect("the disk");
        target.set_len(FIRST + ESP + DRIVE + (1 << 20)).expect("its length");
        let first = FIRST / 512;
        let words = [
            format!("-n1:{first}:{}", first + ESP / 512 - 1),
            "-t1:ef00".to_owned(),
            format!("-n2:{}:{}", first + ESP / 512, first + (ESP + DRIVE) / 512 - 1),
            "-t2:0700".to_owned(),
            text(disk).to_owned(),
        ];
        tool("sgdisk", &words.iter().map(String::as_str).collect::<Vec<_>>());
        copy(&esp, &target, FIRST);
        copy(drive, &target, FIRST + ESP);
    }
}

/// A boot configuration with one entry.
#[must_use]
pub fn bcd(program: &str) -> Registry {
    let mut registry = Registry::default();
    let element = |object: &str, element: &str| format!("Objects\\{object}\\Elements\\{element}");
    registry.set(&element(MANAGER, "23000003"), "Element", &format!("string:{ENTRY}"));
    registry.set(&element(ENTRY, "12000002"), "Element", &format!("string:{program}"));
    registry
}

/// Makes an NTFS of `len` bytes that lies at byte `at` of its disk, and fills it. `words` go to mkntfs.
///
/// # Panics
/// When a tool fails.
pub fn ntfs(words: &[&str], image: &Path, (len, at): (u64, u64), mount: &Path, fill: impl FnOnce(&Path)) {
    File::create(image).and_then(|file| file.set_len(len)).expect("the volume");
    let start = (at / 512).to_string();
    let usual = ["-q", "-F", "-Q", "-p", &start, "-H", "255", "-S", "63", "-L", "System"];
    tool("mkntfs", &[&usual[..], words, &[text(image)]].concat());
    std::fs::create_dir_all(mount).expect("a place to mount");
    tool("ntfs-3g", &["-o", "rw,big_writes,noatime", text(image), text(mount)]);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fill(mount)));
    unmount(mount);
    // The driver writes the last of it after the mount is gone.
    wait_for_driver(image);
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

/// Unmounts. A child that another thread has just forked holds our open files until it runs its program, so that
/// the mount may be busy for a moment when nothing here uses it any longer.
fn unmount(mount: &Path) {
    for _ in 0..200 {
        let output = Command::new("umount").arg(mount).env("LC_ALL", "C.UTF-8").output().expect("umount");
        if output.status.success() {
            return;
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("busy"), "umount {}: {errors}", mount.display());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{} is busy for 10 s", mount.display());
}

/// Waits until no process holds the image: the FUSE driver ends after `umount` does.
fn wait_for_driver(image: &Path) {
    let holds = || {
        let all = std::fs::read_dir("/proc").expect("/proc");
        all.flatten().any(|process| {
            let descriptors = std::fs::read_dir(process.path().join("fd"));
            descriptors.is_ok_and(|all| {
                all.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == image))
            })
        })
    };
    for _ in 0..1000 {
        if !holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("ntfs-3g still holds {}", image.display());
}

/// A disk whose first partition is active, and the words of Windows' first sector where its code would be.
fn mbr(disk: &Path, drive: &Path, system: Option<&Path>) {
    let target = File::create(disk).expect("the disk");
    let parts: Vec<(&Path, u64)> =
        system.map(|system| (system, ESP)).into_iter().chain([(drive, DRIVE)]).collect();
    let mut sector = vec![0_u8; 512];
    sector[0x163..0x17a].copy_from_slice(b"Invalid partition table");
    sector[440..444].copy_from_slice(&0x4b49_4c4e_u32.to_le_bytes());
    let mut at = FIRST;
    target.set_len(FIRST + parts.iter().map(|(_, len)| len).sum::<u64>()).expect("its length");
    for (entry, (volume, len)) in sector[446..510].chunks_exact_mut(16).zip(parts) {
        entry[..8].copy_from_slice(&[0, 0x20, 0x21, 0, 7, 0xfe, 0xff, 0xff]);
        entry[0] = if at == FIRST { 0x80 } else { 0 };
        entry[8..12].copy_from_slice(&((at / 512) as u32).to_le_bytes());
        entry[12..].copy_from_slice(&((len / 512) as u32).to_le_bytes());
        copy(volume, &target, at);
        at += len;
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    target.write_all_at(&sector, 0).expect("the first sector");
}

/// Copies a file to a place of another, without its zeros.
fn copy(from: &Path, to: &File, at: u64) {
    let (mut from, mut at, mut piece) = (File::open(from).expect("a volume"), at, vec![0; 64 << 10]);
    loop {
        let read = from.read(&mut piece).expect("a volume");
        if read == 0 {
            return;
        }
        if piece[..read].iter().any(|byte| *byte != 0) {
            to.write_all_at(&piece[..read], at).expect("the disk");
        }
        at += read as u64;
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ASCII")
}

fn tool(program: &str, words: &[&str]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(words).env("PATH", path).env("LC_ALL", "C.UTF-8").output();
    let output = output.unwrap_or_else(|error| panic!("{program} (make setup installs it): {error}"));
    let errors = [output.stderr, output.stdout].concat();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&errors));
}
