// Package hypercall is the guest's interface of the hvt ABI, version 2: a
// 32-bit OUT to port 0x500 + n whose value is the guest-physical address of
// the argument structure. docs/abi.md describes every call.
//
// The rules that keep a hostile guest out: a structure is copied once and the
// copy is decided on; every pointer goes through memory.View, so that the
// monitor reads and writes only where the guest itself may; and a failure that
// the ABI has a result for is a result, while a broken structure ends the VM.
package hypercall
