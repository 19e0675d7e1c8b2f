//! Says where Python's library is, for programs that embed it.

fn main() {
    #[cfg(feature = "atari")]
    pyo3_build_config::add_libpython_rpath_link_args();
}
