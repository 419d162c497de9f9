//! End to end: the `kiln` binary as its users run it. One module a command or a concern.
//!
//! What a library can prove is proved there; here it is the wiring: words, streams, exit codes, signals, and the
//! agreement with other programs. A tool that is missing fails the test that needs it; `make setup` installs all.

mod support;

mod capture;
mod catalog;
mod check;
mod completion;
mod confined;
mod convert;
mod damaged;
mod diff;
mod errors;
mod guest;
mod house;
mod inspect;
mod inspector;
mod interrupted;
mod launch;
mod map;
mod network;
mod ova;
mod real_disk;
mod received;
mod references;
mod signed;
mod targets;
mod torture;
mod verify;
mod wrapped;
