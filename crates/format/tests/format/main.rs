//! What containers are read to, written as and found to be. One program for all: linking thirty took longer than
//! running them. The hostile ones stand beside it, one program for each parser, because they measure the memory of
//! their process.

mod convert;
mod disk_hostile;
mod finding;
mod fixtures;
mod gpt;
mod identify;
mod layer;
mod measure;
mod sectors;
mod streamed;
mod transfer;
mod wrap;
mod writing;

mod ova {
    mod packed;
    mod read;
    mod write;
}
mod qcow2 {
    mod oracle;
    mod read;
}
mod tar {
    mod read;
    mod write;
}
mod vdi {
    mod check;
    mod read;
    mod write;
}
mod vhd {
    mod check;
    mod read;
    mod write;
}
mod vhdx {
    mod log;
    mod read;
    mod write;
}
mod vmdk {
    mod read;
    mod write;
}
