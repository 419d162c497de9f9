//! Builders of good and hostile images, faulty disks and models: for tests only, never linked into `kiln`.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod between;
pub mod boot;
pub mod damage;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod fault;
pub mod fixtures;
pub mod flat;
pub mod guest_matrix;
pub mod http;
pub mod iso;
pub mod laws;
pub mod micro;
mod model;
pub mod oracle;
pub mod ova;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod power;
pub mod qcow2;
pub mod tar;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
pub mod windows;
pub mod wrap;

pub use model::ModelDisk;
