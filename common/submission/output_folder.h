// A folder that appears whole or not at all.
#pragma once

#include <string>

namespace fairway {

// Built as .NAME.tmp beside its final place, under a lock, and put there by Commit in one step; an old record folder of
// that name is there until then and gone afterwards. Uncommitted, it vanishes with the object; what a killed program
// leaves behind is cleared by the next one. Throws IoError, also where another process is writing the same folder, and
// InputError rather than replace a folder that is not empty and lacks the file `proof`, by which an old record folder is known.
class OutputFolder {
 public:
  OutputFolder(const std::string& path, const std::string& proof);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::string& temporary() const { return temporary_; }  // write here until Commit
  void Commit();

 private:
  std::string Old() const { return temporary_ + ".old"; }

  std::string path_, temporary_;
  int lock_ = -1, old_lock_ = -1;  // of the folder under way; of the one that it replaces
};

}  // namespace fairway
