// SPDX-License-Identifier: Apache-2.0
//
// uvm.h: everything a sample unikernel needs. The first half is the Solo5 hvt guest ABI, version 2 ("hvt ABI n" in the
// comments is section n of its description); the second half is a library of the smallest useful size.
//
// A guest is a folder with C files, one UVM_MANIFEST(...) and an `int main(int argc, char **argv)`; argv[0] is the first
// argument, not a program name. There is no operating system: a fault ends the guest.
#ifndef UVM_H
#define UVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- hvt ABI 3: what the monitor hands to the entry point, in RDI ----------------------------------------------------

// Lives at 0x10000 and is read-only to the guest. All addresses are guest-physical, all sizes bytes.
struct uvm_boot_info {
	uint64_t mem_size;        // end of guest memory; the initial stack starts 8 bytes below it or 4 GiB
	uint64_t kernel_end;      // first free byte after the loaded segments, page-aligned
	uint64_t tsc_hz;          // frequency of RDTSC
	uint64_t cmdline;         // C string of at most UVM_CMDLINE_MAX characters
	uint64_t manifest;        // struct uvm_manifest with the device fields filled in
	uint32_t host_features;   // bit 0: UVM_FEATURE_RING, bit 31: UVM_FEATURE_BATCH
	uint32_t guest_features;  // read-only memory, hence always 0
	uint64_t net_ring;        // address of the network ring, 0: none
};
_Static_assert(sizeof(struct uvm_boot_info) == 56, "hvt ABI 3: boot_info");
_Static_assert(offsetof(struct uvm_boot_info, tsc_hz) == 16, "hvt ABI 3: tsc_hz");
_Static_assert(offsetof(struct uvm_boot_info, net_ring) == 48, "hvt ABI 3: net_ring");

#define UVM_CMDLINE_MAX 8191  // characters, without the terminating NUL (hvt ABI 2)

// The boot information, set before main runs.
extern const struct uvm_boot_info *uvm_boot;

// ---- hvt ABI 2: the manifest, a guest's declaration of its devices ---------------------------------------------------

enum { UVM_BLOCK_DEVICE = 1, UVM_NET_DEVICE = 2, UVM_RESERVED_FIRST = 0x40000000 };

// One manifest entry. Its index in the manifest is the device's handle in hypercalls.
struct uvm_device {
	char name[68];  // [A-Za-z0-9], NUL-terminated
	uint32_t type;  // UVM_BLOCK_DEVICE or UVM_NET_DEVICE; entry 0 is UVM_RESERVED_FIRST
	union {
		struct {
			uint64_t capacity;    // bytes
			uint16_t block_size;  // bytes
		} block;
		struct {
			uint8_t mac[6];
			uint16_t mtu;  // bytes, without the 14 of the Ethernet header
		} net;
	};
	uint64_t host_private;
	uint8_t attached;  // 1 in the guest's copy
};
_Static_assert(sizeof(struct uvm_device) == 104, "hvt ABI 2: manifest entry");
_Static_assert(offsetof(struct uvm_device, block.block_size) == 80, "hvt ABI 2: block_size");
_Static_assert(offsetof(struct uvm_device, net.mtu) == 78, "hvt ABI 2: mtu");
_Static_assert(offsetof(struct uvm_device, attached) == 96, "hvt ABI 2: attached");

struct uvm_manifest {
	uint32_t version;  // 1
	uint32_t entries;  // 1 to 64
	struct uvm_device device[];
};
_Static_assert(offsetof(struct uvm_manifest, device) == 8, "hvt ABI 2: manifest");

// The header of an ELF note named "Solo5" (hvt ABI 1). descsz counts everything behind these 20 bytes, padding included;
// hence the notes are 4-aligned as far as ELF is concerned, and padding brings the manifest to offset 24.
struct uvm_note {
	uint32_t namesz, descsz, type;
	char name[8];
};
_Static_assert(sizeof(struct uvm_note) == 20, "hvt ABI 1: note header");

#define UVM_NOTE(note_type, whole) \
	{ .namesz = 6, .descsz = sizeof(whole) - sizeof(struct uvm_note), .type = (note_type), .name = "Solo5" }
#define UVM_NOTE_ABI1 0x31494241u
#define UVM_NOTE_MFT1 0x3154464du

// UVM_MANIFEST(UVM_BLOCK("storage"), UVM_NET("service")) declares the guest's devices, UVM_MANIFEST() none. Exactly one
// per guest, at file scope. The monitor refuses to start a guest with a declared device that it was not given.
#define UVM_BLOCK(device_name) { .name = (device_name), .type = UVM_BLOCK_DEVICE }
#define UVM_NET(device_name) { .name = (device_name), .type = UVM_NET_DEVICE }
#define UVM_MANIFEST(...) \
	enum { uvm_entries = sizeof((struct uvm_device[]){ { .type = UVM_RESERVED_FIRST }, __VA_ARGS__ }) / \
	                     sizeof(struct uvm_device) }; \
	struct uvm_manifest_note { \
		struct uvm_note note; \
		struct { \
			uint32_t version, entries; \
			struct uvm_device device[uvm_entries]; \
		} manifest; \
	}; \
	_Static_assert(offsetof(struct uvm_manifest_note, manifest) == 24, "hvt ABI 1: MFT1 data offset"); \
	_Static_assert(uvm_entries <= 64, "hvt ABI 2: at most 63 devices"); \
	__attribute__((used, aligned(4), section(".note.solo5.manifest"))) \
	static const struct uvm_manifest_note uvm_manifest_note = { \
		.note = UVM_NOTE(UVM_NOTE_MFT1, struct uvm_manifest_note), \
		.manifest = { 1, uvm_entries, { { .type = UVM_RESERVED_FIRST }, __VA_ARGS__ } }, \
	}

// ---- hvt ABI 4: hypercalls, a 32-bit OUT of the structure's address to port 0x500 + number -------------------------

enum { UVM_PORT = 0x500 };
enum {
	UVM_WALLTIME = 1, UVM_PUTS = 2, UVM_POLL = 3, UVM_BLOCK_WRITE = 4, UVM_BLOCK_READ = 5, UVM_NET_WRITE = 6,
	UVM_NET_READ = 7, UVM_HALT = 8, UVM_BATCH = 9,  // the last one is uvm's own
};
enum { UVM_OK = 0, UVM_AGAIN = 1, UVM_EINVAL = 2, UVM_EUNSPEC = 3 };

struct uvm_walltime { uint64_t ns; };
struct uvm_puts { uint64_t ptr, len; };
struct uvm_poll { uint64_t timeout_ns, ready_set; int32_t ret; };
struct uvm_block_io { uint64_t handle, offset, ptr, len; int32_t ret; };
struct uvm_net_io { uint64_t handle, ptr, len; int32_t ret; };
struct uvm_halt { uint64_t cookie; int32_t status; };
struct uvm_batch { uint64_t ptr, count; int32_t ret; };
_Static_assert(offsetof(struct uvm_poll, ret) == 16, "hvt ABI 4: POLL");
_Static_assert(offsetof(struct uvm_block_io, ret) == 32, "hvt ABI 4: BLOCK");
_Static_assert(offsetof(struct uvm_net_io, ret) == 24, "hvt ABI 4: NET");
_Static_assert(offsetof(struct uvm_halt, status) == 8, "hvt ABI 4: HALT");
_Static_assert(offsetof(struct uvm_batch, ret) == 16, "uvm: BATCH");

// One request of a batch (docs/abi.md, "Batches"): the structure of a single call, and which call.
#define UVM_FEATURE_BATCH (1u << 31)
enum { UVM_BATCH_MAX = 64 };  // requests in one hypercall
struct uvm_request {
	union {
		struct uvm_block_io block;
		struct uvm_net_io net;
	};
	uint64_t call;  // UVM_BLOCK_WRITE, UVM_BLOCK_READ, UVM_NET_WRITE or UVM_NET_READ
};
_Static_assert(sizeof(struct uvm_request) == 48 && offsetof(struct uvm_request, call) == 40, "uvm: BATCH");

// The network ring (hvt ABI 5), at net_ring where host_features says so. Indices run freely and count modulo the slots.
#define UVM_FEATURE_RING (1u << 0)
enum { UVM_RING_PORT = 0x600, UVM_RING_SLOTS = 1024, UVM_RING_WRITE = 1, UVM_RING_READ = 2 };
enum { UVM_RING_FRAME = 2048 };  // bytes: a longer frame is written by a hypercall
struct uvm_ring_entry { uint32_t op, handle; uint64_t ptr; uint32_t len, id; uint64_t reserved; };
struct uvm_ring_commit { uint32_t id; int32_t ret; uint32_t len, reserved; };
struct uvm_ring {
	uint32_t entry_tail, commit_head;  // the guest's
	uint8_t pad[56];
	uint32_t entry_head, commit_tail, needs_kick;  // the monitor's
	uint8_t pad2[52];
	struct uvm_ring_entry entry[UVM_RING_SLOTS];
	struct uvm_ring_commit commit[UVM_RING_SLOTS];
};
_Static_assert(offsetof(struct uvm_ring, entry_head) == 64 && offsetof(struct uvm_ring, entry) == 128, "hvt ABI 5: ring");
_Static_assert(offsetof(struct uvm_ring, commit) == 32896 && sizeof(struct uvm_ring) == 49280, "hvt ABI 5: ring");

// Cookie of HALT: where a trap left its registers. UVM_TRAP_FRAME_SIZE bytes from there on must be readable.
#define UVM_TRAP_FRAME_SIZE 512
struct uvm_trap_frame { uint64_t cr2, error_code, rip, cs, rflags, rsp, ss; };
_Static_assert(sizeof(struct uvm_trap_frame) == 56, "hvt ABI 4: trap frame");

// Port output of 4, 2 and 1 bytes.
static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "d"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "d"(port) : "memory");
}

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "d"(port) : "memory");
}

// Raw hypercall. The structure must lie below 4 GiB, which the stack and all variables do.
static inline void uvm_hypercall(int number, void *arg) { outl(UVM_PORT + number, (uint32_t)(uintptr_t)arg); }

// ---- The library ----------------------------------------------------------------------------------------------------

// Ends the guest after printing what is still buffered. The process exit status of the monitor is status & 0xff.
_Noreturn void uvm_halt(int status);

// Console. printf and puts collect a line and send it as one hypercall; uvm_write sends at once (after what is
// buffered), and uvm_say does so for a string literal without any copying.
// printf knows %s %c %d %u %x, %ld %lu %lx, %% and zero-padded or blank-padded widths (%08x, %4d).
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void puts(const char *line);
void uvm_write(const void *data, size_t len);
#define uvm_say(literal) uvm_write((literal), sizeof(literal) - 1)

// Time. The wall clock is UTC in ns since 1970; the monotonic clock is the TSC in ns since an arbitrary start.
uint64_t uvm_walltime_ns(void);
uint64_t uvm_monotonic_ns(void);

// Sleeps until a network device is readable or the timeout is over. Returns the number of readable devices and, unless
// ready is NULL, the set of their handles (bit n: handle n).
#define UVM_FOREVER UINT64_MAX
int uvm_poll(uint64_t timeout_ns, uint64_t *ready);

// Looks a device up in the manifest. Returns NULL when there is none of that name and type.
const struct uvm_device *uvm_find_device(const char *name, uint32_t type);
uint64_t uvm_handle(const struct uvm_device *device);

// Device I/O; each returns UVM_OK, UVM_AGAIN, UVM_EINVAL or UVM_EUNSPEC. Offsets and lengths are bytes.
// uvm_net_read takes the room in buf in *len and leaves the length of the frame there.
int uvm_block_read(uint64_t handle, uint64_t offset, void *buf, size_t len);
int uvm_block_write(uint64_t handle, uint64_t offset, const void *buf, size_t len);
int uvm_net_read(uint64_t handle, void *buf, size_t *len);
int uvm_net_write(uint64_t handle, const void *buf, size_t len);

// uvm_batch carries out n requests in their order, up to the first whose result is not UVM_OK: it returns that one's and
// stores in *done, unless done is NULL, how many went well before. Lengths of frames that were read are in the requests.
// Where the monitor has no batches it makes the calls one by one.
int uvm_batch(struct uvm_request *requests, size_t n, size_t *done);
int uvm_call(struct uvm_request *request);  // one of them, by the single call
struct uvm_request uvm_block_request(int call, uint64_t handle, uint64_t offset, const void *buf, size_t len);
struct uvm_request uvm_net_request(int call, uint64_t handle, const void *buf, size_t len);

// Frames by the network ring, as the net calls above. A write is on its way when the call returns, and its result is not
// known. Only where uvm_has_ring.
bool uvm_has_ring(void);
int uvm_ring_read(uint64_t handle, void *buf, size_t *len);
int uvm_ring_write(uint64_t handle, const void *buf, size_t len);

// What the monitor says to the guest before the guest's own arguments: the leading words of the command line that begin
// with "uvm." (docs/abi.md, "Words from the monitor"). main does not see them.
extern int uvm_words;
extern char **uvm_word;

// The IPv4 address that the monitor hands over for a net device, in network byte order; gateway 0.0.0.0: none. False (and
// *out untouched): it hands none over.
struct uvm_ipv4 {
	uint8_t address[4], gateway[4];
	unsigned prefix;  // bits, 0 to 32
};
bool uvm_net_config(const struct uvm_device *nic, struct uvm_ipv4 *out);

// UVM_SERVES_HTTP; at file scope says in uvm's note that the guest serves HTTP on TCP port 80: uvm then prints a URL.
#define UVM_SERVES_HTTP __asm__(".globl uvm_serves_http\n.set uvm_serves_http, 80")

// Reads a.b.c.d or a.b.c.d/prefix and returns what follows it; NULL (and nothing stored) if s does not begin with that.
// prefix may be NULL; without one in s it is 32.
const char *parse_ipv4(const char *s, uint8_t ip[4], unsigned *prefix);

// Decimal number without sign; false (and *out untouched) on anything else, overflow included.
bool parse_u64(const char *s, uint64_t *out);

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);

#endif
