#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace einforge::base {

// A file descriptor that closes itself. All but the destructor throw IoError
// "cannot write 'PATH': ...".
class File {
 public:
  // A new, empty file, in place of one that is there.
  static File create(const std::filesystem::path& path);
  // What is written goes after what is there; the file is made if missing.
  static File append(const std::filesystem::path& path);
  // A device or pipe that is there.
  static File open(const std::filesystem::path& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  // All of the bytes, without a buffer: they are there after kill -9.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  // There after a power cut too.
  void sync();

  int descriptor() const { return descriptor_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  friend class AtomicFile;
  File(std::filesystem::path path, int descriptor);

  std::filesystem::path path_;
  int descriptor_ = -1;
};

// Replaces `path` in one step: written beside it, synced, renamed, and the
// directory synced. A crash or a full disk leaves the old file as it was.
//
// The temporary file, PATH.XXXXXX.einforge-tmp, is locked while it is written.
// One that nobody locks is of a process that was killed; it goes when the same
// file is written again and when its folder is locked (FolderLock).
class AtomicFile {
 public:
  // A link is followed: what it leads to is replaced. A pipe or a device
  // (/dev/stdout) is written to. Throws IoError, as all but the destructor do.
  explicit AtomicFile(const std::filesystem::path& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  // Removes the temporary file unless it was published.
  ~AtomicFile();

  void write(std::span<const std::byte> bytes) { file_.write(bytes); }
  void write(std::string_view text) { file_.write(text); }
  // All that was written is on the disk when this returns.
  void sync() { file_.sync(); }
  // Syncs, then puts the file in its place.
  void publish();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;  // empty once published, or of a device
  File file_;
};

// AtomicFile in one call. Throws IoError.
void write_file_atomically(
    const std::filesystem::path& path, std::string_view bytes);

// The whole file. Throws InvalidInput when it does not exist or is not a
// regular file, IoError when it cannot be read.
std::string read_file(const std::filesystem::path& path);

// read_file, and standard input where the path is "-", /dev/stdin or /dev/fd/N.
std::string read_input(const std::filesystem::path& path);

// Makes the directory and its parents; throws IoError when it cannot.
void make_directory(const std::filesystem::path& path);

// Removes the temporary files in `directory` that killed processes left.
void remove_stale_files(const std::filesystem::path& directory);

// Keeps two processes from working in one folder. The system drops the lock
// when the process ends, however it ends. The folder itself is locked, so that
// there is no lock file to remove; on file systems that lock only files, its
// file .lock. Who has locked a folder may remove what killed processes left
// there; the constructor removes their temporary files.
class FolderLock {
 public:
  // Throws InvalidInput when another process holds it, IoError when the folder
  // cannot be opened. A file system without any locks gives none and is no
  // error.
  explicit FolderLock(const std::filesystem::path& directory);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

  // Whether the folder is still there; not so when it was removed, and another
  // one made, since it was locked.
  bool holds() const;

 private:
  std::filesystem::path locked_;
  int descriptor_ = -1;
};

// A new folder in TMPDIR (or /tmp) that is removed with all it holds.
class TemporaryFolder {
 public:
  // Throws IoError.
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A read-only memory map of a whole file; empty files map to an empty span.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws InvalidInput when the file is missing, IoError when it cannot be
  // mapped.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace einforge::base
