//! Images as records and layers: the store on disk and its index.
