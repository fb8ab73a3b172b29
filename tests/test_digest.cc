// What the build generates for programs, for test programs: they are no part of a record.
namespace fairway {
extern const char kVersion[] = "test";
extern const char kSourceDigest[] = "test";
}  // namespace fairway
