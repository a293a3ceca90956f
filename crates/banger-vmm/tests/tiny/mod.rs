//! A guest of a few bytes: it writes a text to the serial console and then does one thing.
//!
//! It is an ELF file with a PVH note (the boot protocol of Xen's "HVM without firmware"), which
//! QEMU enters in 32-bit protected mode.

/// What the guest does once it has written its text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// Switches the machine off.
    PowerOff,
    /// Resets it.
    Reset,
    /// Sleeps for ever.
    Sleep,
    /// Looks at the byte at [`FLAG`] until it is not zero, writes the text again, and switches the
    /// machine off.
    Watch,
}

/// The byte that [`Then::Watch`] looks at: an address in the machine's memory.
pub(crate) const FLAG: u32 = 0x20_0000;

/// Where microvm has its ACPI registers: sleep control, and two bytes on, reset.
const SLEEP_CONTROL: u32 = 0xfea0_0200;
const RESET_REGISTER: u32 = SLEEP_CONTROL + 2;
/// Sleep type 5, enabled; and the value that resets.
const POWER_OFF: u8 = 0x34;
const RESET: u8 = 0x42;

/// Where the code is loaded.
const ORIGIN: u32 = 0x10_0000;
const HEADER_LEN: u32 = 52;
const SEGMENT_LEN: u32 = 32;
/// The note: header, name "Xen\0", an address in eight bytes.
const NOTE_LEN: u32 = 12 + 4 + 8;
/// Note type "PHYS32_ENTRY".
const PHYS32_ENTRY: u32 = 18;

/// The guest as an ELF file.
pub(crate) fn guest(text: &str, then: Then) -> Vec<u8> {
    let code = code(text, then);
    let len = u32::try_from(code.len()).expect("the text is short");
    let note_at = HEADER_LEN + 2 * SEGMENT_LEN;
    let code_at = note_at + NOTE_LEN;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable, 386, version 1.
    elf.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    words(&mut elf, [ORIGIN, HEADER_LEN, 0, 0]);
    // Header and segment sizes, two segments, no sections.
    for half in [52u16, 32, 2, 40, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let (load, note, read_execute) = (1, 4, 5);
    words(&mut elf, [load, code_at, ORIGIN, ORIGIN, len, len, read_execute, 4]);
    words(&mut elf, [note, note_at, 0, 0, NOTE_LEN, NOTE_LEN, 4, 4]);
    words(&mut elf, [4, 8, PHYS32_ENTRY]);
    elf.extend(b"Xen\0");
    words(&mut elf, [ORIGIN, 0]);
    elf.extend(code);
    elf
}

fn code(text: &str, then: Then) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    let say = |code: &mut Vec<u8>| {
        for byte in text.bytes() {
            code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
        }
    };
    say(&mut code);
    let store = |address: u32, value: u8| {
        let mut store = vec![0xc6, 0x05]; // mov byte [address], value
        store.extend(address.to_le_bytes());
        store.push(value);
        store
    };
    match then {
        Then::PowerOff => code.extend(store(SLEEP_CONTROL, POWER_OFF)),
        Then::Reset => code.extend(store(RESET_REGISTER, RESET)),
        Then::Sleep => {}
        Then::Watch => {
            code.extend([0x80, 0x3d]); // cmp byte [FLAG], 0
            code.extend(FLAG.to_le_bytes());
            code.extend([0, 0x74, 0xf7]); // je to the comparison
            say(&mut code);
            code.extend(store(SLEEP_CONTROL, POWER_OFF));
        }
    }
    code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp to hlt
    code
}

fn words<const N: usize>(out: &mut Vec<u8>, words: [u32; N]) {
    out.extend(words.into_iter().flat_map(u32::to_le_bytes));
}
