//! Other implementations of qcow2, each behind the same two functions: read a whole disk, write one.
//!
//! The comparison in `examples/` shares this file and uses other parts of it.
//!
//! They only ever see images that a test made: none of them is fit for files from strangers.

#![allow(dead_code, reason = "the tests and the comparison use different halves")]

use std::io::Read;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Storage,
    StorageCreateOptions,
};
use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::meta::Qcow2Header;
use qcow2_rs::sync_io::Qcow2IoSync;
use qcow2_rs::utils::qcow2_setup_dev_sync;

/// Why another implementation could not.
pub(crate) type Answer<T> = Result<T, String>;

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Runs a future that waits for nothing but itself: the engine below does blocking reads.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// Bytes moved at a time; more in one call and qcow2-rs 0.1.6 hides read errors.
const STEP: usize = 64 * 1024;

fn qcow2_rs_device(path: &Path, read_only: bool) -> Answer<Qcow2Dev<Qcow2IoSync>> {
    // Slices of one sector: with its own defaults the crate hangs on clusters of 512 bytes.
    let params = Qcow2DevParams::new(9, Some((9, 1 << 20)), Some((9, 1 << 20)), read_only, false);
    let device = qcow2_setup_dev_sync(path, &params).map_err(words)?;
    block_on(device.qcow2_prep_io()).map_err(words)?;
    Ok(device)
}

/// The whole disk by qcow2-rs, handed out piece by piece.
pub(crate) fn each_by_qcow2_rs(path: &Path, piece: &mut dyn FnMut(&[u8])) -> Answer<()> {
    let device = qcow2_rs_device(path, true)?;
    let len = device.info.virtual_size();
    let mut buf = Qcow2IoBuf::<u8>::new(STEP);
    let mut at = 0;
    while at < len {
        let take = (len - at).min(STEP as u64) as usize;
        let got = block_on(device.read_at(&mut buf[..take], at)).map_err(words)?;
        if got != take {
            return Err(format!("{got} of {take} bytes at {at:#x}"));
        }
        piece(&buf[..take]);
        at += take as u64;
    }
    Ok(())
}

/// Opens a file and reads 64 sectors all over the disk: what a hostile header meets first.
pub(crate) fn sample_by_qcow2_rs(path: &Path) -> Answer<()> {
    let device = qcow2_rs_device(path, true)?;
    let mut buf = Qcow2IoBuf::<u8>::new(512);
    for at in sample_places(device.info.virtual_size()) {
        block_on(device.read_at(&mut buf, at)).map_err(words)?;
    }
    Ok(())
}

/// The same with imago.
pub(crate) fn sample_by_imago(path: &Path) -> Answer<()> {
    let access = imago_access(path)?;
    let mut buf = [0; 512];
    for at in sample_places(access.size()) {
        access.read(&mut buf[..], at).map_err(words)?;
    }
    Ok(())
}

/// Sectors that lie inside a disk of `len` bytes, the first and nearly the last among them.
pub(crate) fn sample_places(len: u64) -> impl Iterator<Item = u64> {
    let step = (len / 64) & !511;
    (0..64).map(move |n| n * step).filter(move |at| at + 512 <= len)
}

/// The whole disk by qcow2-rs.
pub(crate) fn read_by_qcow2_rs(path: &Path) -> Answer<Vec<u8>> {
    let mut bytes = Vec::new();
    each_by_qcow2_rs(path, &mut |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

/// A new image by qcow2-rs; clusters that are zero are not written.
pub(crate) fn write_by_qcow2_rs(path: &Path, content: &[u8], cluster_bits: usize) -> Answer<()> {
    let refcount_order = 4;
    let size = content.len() as u64;
    let (table, blocks, _) = Qcow2Header::calculate_meta_params(size, cluster_bits, refcount_order, 512);
    let mut empty = vec![0; ((1 + table.1 as usize + blocks.1 as usize) << cluster_bits) + 512];
    Qcow2Header::format_qcow2(&mut empty, size, cluster_bits, refcount_order, 512).map_err(words)?;
    std::fs::write(path, empty).map_err(words)?;
    let device = qcow2_rs_device(path, false)?;
    let mut buf = Qcow2IoBuf::<u8>::new(1 << cluster_bits);
    for (index, piece) in content.chunks(1 << cluster_bits).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            buf[..piece.len()].copy_from_slice(piece);
            block_on(device.write_at(&buf[..piece.len()], (index << cluster_bits) as u64)).map_err(words)?;
        }
    }
    block_on(device.flush_meta()).map_err(words)
}

fn imago_access(path: &Path) -> Answer<FormatAccess<File>> {
    let file = std::fs::File::open(path).map_err(words)?;
    let file = File::try_from(file).map_err(words)?;
    // Whatever a file names beside itself is refused.
    let image = Qcow2::<File>::builder(file).open(DenyImplicitOpenGate::default()).map_err(words)?;
    Ok(FormatAccess::new(image))
}

/// The whole disk by imago, handed out piece by piece.
pub(crate) fn each_by_imago(path: &Path, piece: &mut dyn FnMut(&[u8])) -> Answer<()> {
    let access = imago_access(path)?;
    let len = access.size();
    let mut buf = vec![0; STEP];
    let mut at = 0;
    while at < len {
        let take = (len - at).min(STEP as u64) as usize;
        access.read(&mut buf[..take], at).map_err(words)?;
        piece(&buf[..take]);
        at += take as u64;
    }
    Ok(())
}

/// The whole disk by imago.
pub(crate) fn read_by_imago(path: &Path) -> Answer<Vec<u8>> {
    let mut bytes = Vec::new();
    each_by_imago(path, &mut |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

/// A new image by imago; zeros are left out.
pub(crate) fn write_by_imago(path: &Path, content: &[u8], cluster_size: usize) -> Answer<()> {
    let file = File::create_open(StorageCreateOptions::new().filename(path)).map_err(words)?;
    let image = Qcow2::<File>::create_builder(file)
        .size(content.len() as u64)
        .cluster_size(cluster_size)
        .create_open(DenyImplicitOpenGate::default(), |image| Ok(Qcow2::builder(image)))
        .map_err(words)?;
    let access = FormatAccess::new(image);
    for (index, piece) in content.chunks(cluster_size).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            access.write(piece, (index * cluster_size) as u64).map_err(words)?;
        }
    }
    access.flush().map_err(words)
}

/// The whole disk by qcow2-core.
pub(crate) fn read_by_qcow2_core(path: &Path) -> Answer<Vec<u8>> {
    let mut reader = qcow2::Qcow2Reader::open(path).map_err(words)?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(words)?;
    Ok(bytes)
}
