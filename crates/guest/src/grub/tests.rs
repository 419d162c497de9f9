//! Scripts as distributions write them and as users break them.

use super::chosen_of;
use super::stage::{Core, core_of};
use super::syntax::parse;

fn chosen(text: &str) -> Option<String> {
    chosen_of(text).map(|(title, _, _)| title)
}

/// What grub-mkconfig writes, with a few entries.
fn generated(head: &str) -> String {
    format!(
        r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
{head}
if [ x"${{feature_menuentry_id}}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function load_video {{
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod efi_gop
  fi
}}
if [ x$feature_timeout_style = xy ] ; then
  set timeout_style=menu
  set timeout=5
else
  set timeout=5
fi
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple-1' {{
	load_video
	set root='hd0,gpt1'
	linux	/boot/vmlinuz-6.1.0-2 root=UUID=1 ro  quiet
	initrd	/boot/initrd.img-6.1.0-2
}}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1' {{
	menuentry 'Debian, with Linux 6.1.0-2' --class os $menuentry_id_option 'gnulinux-6.1.0-2-advanced-1' {{
		linux	/boot/vmlinuz-6.1.0-2 root=UUID=1 ro
	}}
	menuentry 'Debian, with Linux 6.1.0-1' --class os $menuentry_id_option 'gnulinux-6.1.0-1-advanced-1' {{
		linux	/boot/vmlinuz-6.1.0-1 root=UUID=1 ro
	}}
}}
"#
    )
}

#[test]
fn default_is_a_number_a_title_an_id_or_a_path_of_those() {
    for (head, title) in [
        ("set default=\"0\"", "Debian GNU/Linux"),
        ("set default=\"1>1\"", "Debian, with Linux 6.1.0-1"),
        ("set default=\"1\"", "Debian, with Linux 6.1.0-2"),
        ("set default=\"gnulinux-advanced-1>gnulinux-6.1.0-1-advanced-1\"", "Debian, with Linux 6.1.0-1"),
        (
            "set default=\"Advanced options for Debian GNU/Linux>Debian, with Linux 6.1.0-1\"",
            "Debian, with Linux 6.1.0-1",
        ),
        ("set default=\"nothing of this name\"", "Debian GNU/Linux"),
        ("set default=\"9\"", "Debian GNU/Linux"),
        ("", "Debian GNU/Linux"),
        (
            "set saved_entry=1\nif [ \"${next_entry}\" ] ; then\nset default=\"${next_entry}\"\nelse\nset default=\"${saved_entry}>1\"\nfi",
            "Debian, with Linux 6.1.0-1",
        ),
        (
            "set next_entry=0\nif [ \"${next_entry}\" ] ; then\nset default=\"${next_entry}\"\nelse\nset default=\"1>1\"\nfi",
            "Debian GNU/Linux",
        ),
    ] {
        assert_eq!(chosen(&generated(head)).as_deref(), Some(title), "{head}");
    }
}

#[test]
fn words_of_a_kernel_line_lose_their_quotes_and_take_variables() {
    let text =
        "set a='x y'\nset timeout=0\nmenuentry \"t\" {\n linux /k root=\"LABEL=a b\" $a \"$a\" $none end\n}";
    let (_, kernel, cmdline) = chosen_of(text).unwrap();
    assert_eq!((kernel.as_str(), cmdline.as_str()), ("/k", "root=LABEL=a b x y x y end"));
}

#[test]
fn a_brace_too_few_costs_the_rest_and_one_too_many_its_line() {
    assert_eq!(chosen("menuentry 'a' {\nlinux /k\n"), None);
    assert_eq!(parse("menuentry 'a' {\nlinux /k\n").1, [1]);
    assert_eq!(chosen("}\nmenuentry 'a' {\nlinux /k\n}\n").as_deref(), Some("a"));
    assert_eq!(
        chosen("menuentry 'a' {\nlinux /k\n}\n}\nfi\nmenuentry 'b' {\nlinux /k\n}").as_deref(),
        Some("a")
    );
    assert_eq!(chosen("if [ a = a ]; then\nmenuentry 'a' {\nlinux /k\n}\n"), None);
    assert_eq!(chosen("set x=\"abc\nmenuentry 'a' {\nlinux /k\n}\n"), None);
    assert_eq!(chosen("menuentry 'a' {\nlinux /k\n}\nmenuentry 'b' {\nlinux /k\n").as_deref(), Some("a"));
    // No word stands between `if` and its condition's end.
    assert_eq!(chosen("if [ a = a ]\nfi\nmenuentry 'a' {\nlinux /k\n}\n").as_deref(), Some("a"));
}

#[test]
fn hostile_scripts_end() {
    for text in [
        "function f {\nf\n}\nf\nmenuentry a {\nlinux /k\n}".to_owned(),
        "while true; do\nset a=b\ndone\n".to_owned(),
        format!("{}linux /k{}", "menuentry a {\n".repeat(5000), "\n}".repeat(5000)),
        "if true; then ".repeat(20_000),
        format!("set a=x\n{}", "set a=$a$a\n".repeat(64)),
        "submenu a {\nconfigfile /boot/grub/grub.cfg\n}".to_owned(),
    ] {
        let _ = chosen_of(&text);
    }
}

#[test]
fn core_that_is_cut_anywhere_is_no_core() {
    let module = |kind: u32, body: &[u8]| {
        let len = u32::try_from(body.len() + 8).unwrap();
        [&kind.to_le_bytes()[..], &len.to_le_bytes()[..], body].concat()
    };
    let objects = [
        module(3, b"(,gpt1)/boot/grub\0\0\0"),
        module(1, b"files"),
        module(2, b"search x\nconfigfile y\n\0\0"),
    ]
    .concat();
    let size = u32::try_from(objects.len() + 12).unwrap();
    let block = [b"mimg", &12_u32.to_le_bytes()[..], &size.to_le_bytes()[..], &objects].concat();
    let image = [&b"code mimg code "[..], &block].concat();
    let whole = Core {
        prefix: "(,gpt1)/boot/grub".to_owned(),
        config: Some("search x\nconfigfile y\n".to_owned()),
        modules: Vec::new(),
        memdisk: Some(b"files".to_vec()),
    };
    assert_eq!(core_of(&image), Some(whole));
    for len in 0..image.len() {
        assert_eq!(core_of(&image[..len]), None, "{len}");
    }
}
