// Package loader reads guest kernels. Open decides what a file is and checks
// its structure; Fit checks it against a memory size; Load copies it into
// guest memory. Every byte of the file is treated as hostile.
package loader
