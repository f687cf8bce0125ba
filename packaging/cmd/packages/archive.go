package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const sumsName = "SHA256SUMS"

// ownNames is the pattern of the names of all that a run makes, but for the checksums.
const ownNames = `nodejoin[_\-]*`

// archive writes what there is to install by hand: for Windows as zip, else as tar.gz. Everything is in one directory.
func (r *release) archive(p platform, binary string, documents []document) error {
	name := r.name(p)
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	programName := "nodejoin"
	if p.os == "windows" {
		programName += ".exe"
	}
	files := []document{{path.Join(name, programName), program, 0o755}}
	for _, d := range documents {
		if inside := archivePath(p, d.path); inside != "" {
			files = append(files, document{path.Join(name, inside), d.data, d.mode})
		}
	}
	slices.SortFunc(files, func(a, b document) int { return strings.Compare(a.path, b.path) })
	write, suffix := r.writeTar, ".tar.gz"
	if p.os == "windows" {
		write, suffix = r.writeZip, ".zip"
	}
	file, err := os.Create(filepath.Join(r.out, name+suffix))
	if err != nil {
		return err
	}
	if err := write(file, files); err != nil {
		file.Close() //nolint:errcheck // it failed before
		return err
	}
	return file.Close()
}

func (r *release) name(p platform) string {
	return fmt.Sprintf("nodejoin_%s_%s_%s%s", r.packaged, p.os, p.arch, p.arm)
}

// archivePath says where in an archive a document of the packages is; "" is nowhere. The service and its examples are for Linux alone.
func archivePath(p platform, name string) string {
	linux := p.os == "linux"
	switch {
	case strings.HasPrefix(name, docDir+"examples/config.yaml"), strings.HasPrefix(name, docDir+"examples/") && linux:
		return strings.TrimPrefix(name, docDir)
	case strings.HasPrefix(name, docDir+"examples/"):
	case strings.HasPrefix(name, docDir):
		return path.Base(name)
	case name == "LICENSE", name == "etc/nodejoin/config.yaml":
		return path.Base(name)
	case name == "usr/lib/systemd/system/nodejoin.service" && linux:
		return "systemd/nodejoin.service"
	case strings.HasPrefix(name, "usr/share/man/") && p.os != "windows":
		return strings.TrimPrefix(name, "usr/share/")
	case strings.HasPrefix(name, "usr/share/bash-completion/") && p.os != "windows":
		return "completions/nodejoin.bash"
	case (strings.HasPrefix(name, "usr/share/zsh/") || strings.HasPrefix(name, "usr/share/fish/")) && p.os != "windows":
		return "completions/" + path.Base(name)
	}
	return ""
}

func (r *release) writeTar(file io.Writer, files []document) error {
	compressed, err := gzip.NewWriterLevel(file, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(compressed)
	for _, f := range files {
		header := &tar.Header{Name: f.path, Mode: int64(f.mode), Size: int64(len(f.data)), ModTime: r.date, Uname: "root", Gname: "root", Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(f.data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return compressed.Close()
}

func (r *release) writeZip(file io.Writer, files []document) error {
	w := zip.NewWriter(file)
	for _, f := range files {
		header := &zip.FileHeader{Name: f.path, Method: zip.Deflate, Modified: r.date}
		header.SetMode(f.mode)
		entry, err := w.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := entry.Write(f.data); err != nil {
			return err
		}
	}
	return w.Close()
}

// billOfMaterials writes what is linked into a program, as the program itself tells it, in the CycloneDX format.
func (r *release) billOfMaterials(ctx context.Context, p platform, binary string) error {
	out, err := filepath.Abs(filepath.Join(r.out, r.name(p)+".cdx.json"))
	if err != nil {
		return err
	}
	cmd, err := r.tool(ctx, "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod", "bin", "-json", "-licenses", "-std", "-noserial", "-notimestamp",
		"-version", r.version, "-output", out, binary)
	if err != nil {
		return err
	}
	return said(cmd)
}

// writeSums writes the checksums of all that a run has made in a directory, for sha256sum -c.
func writeSums(dir string) error {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, entry := range entries {
		made, err := filepath.Match(ownNames, entry.Name())
		if err != nil {
			return err
		}
		if !made || !entry.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(data), entry.Name())
	}
	return os.WriteFile(filepath.Join(dir, sumsName), []byte(b.String()), 0o644) //nolint:gosec // for everybody to read
}
