//! What goes wrong, and what must not.

use super::*;
