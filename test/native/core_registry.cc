#include <sys/stat.h>

#include <fstream>
#include <set>

#include "core/mapped_file.h"
#include "core/registry.h"
#include "core_check.h"
#include "core_folder.h"

TEST_CASE("built-in backends have the right version, names of their own and a count or a reason") {
  const moe::Registry registry("");
  std::set<std::string> names;
  for (const moe::Backend &backend : registry.backends()) {
    REQUIRE(backend.functions);
    CHECK(backend.functions->abi == MOE_ABI);
    CHECK(names.insert(backend.name).second);
    CHECK(&registry.find(backend.name) == backend.functions);
    const moe::Availability found = moe::availability(backend);
    CHECK((found.count > 0 || found.error.code == MOE_DEVICE_UNAVAILABLE));
  }
  CHECK(error_of([&] { registry.find("none such"); }).starts_with("INVALID_ARGUMENT backend: expected"));
}

TEST_CASE("libraries of a folder: one loads, one is of another version, one has no entry, one is no library") {
  const moe::Registry built_in(""), missing("/no/such/folder");
  CHECK(missing.backends().size() == built_in.backends().size());
  std::ofstream(std::string(MOE_TEST_BACKENDS) + "/moe_broken.so") << "not a library";
  const moe::Registry registry(MOE_TEST_BACKENDS);
  CHECK(registry.backends().size() == built_in.backends().size() + 4);
  CHECK(moe::availability(moe::Backend{"stub", &registry.find("stub"), {}}).count == 3);
  const auto found = [&](const char *name) { return error_of([&] { registry.find(name); }); };
  CHECK(found("old").find("expected a backend of abi " + std::to_string(MOE_ABI) + " with " +
                          std::to_string(sizeof(moe_backend)) + " bytes, got abi 0") != std::string::npos);
  CHECK(found("entryless").ends_with("expected a library with moe_backend_entry, got one without"));
  CHECK(found("broken").starts_with("DEVICE_UNAVAILABLE"));
  for (const moe::Backend &backend : registry.backends())
    if (!backend.functions) {
      CHECK(moe::availability(backend).count == 0);
      CHECK(moe::availability(backend).error.code == MOE_DEVICE_UNAVAILABLE);
    }
}

TEST_CASE("a mapped file: contents, ranges, the empty file, and what is not a file") {
  const TemporaryFolder folder;
  std::ofstream(folder.path("some")) << "0123456789";
  std::ofstream(folder.path("empty")).flush();
  REQUIRE(mkfifo(folder.path("fifo").c_str(), 0600) == 0);
  moe::MappedFile file(folder.path("some"));
  CHECK(file.size() == 10);
  CHECK(static_cast<char>(file.range(3, 2)[1]) == '4');
  CHECK(file.range(10, 0).empty());
  for (const auto &[offset, bytes] : {std::pair<int64_t, int64_t>{-1, 1}, {0, -1}, {5, 6}, {11, 0}, {5, INT64_MAX}})
    CHECK(error_of([&] {
            file.range(offset, bytes);
          }).starts_with("INVALID_ARGUMENT offset: expected a range within the 10 bytes"));
  moe::MappedFile moved(std::move(file));
  CHECK(moved.size() == 10);
  CHECK(file.size() == 0);
  const moe::MappedFile empty(folder.path("empty"));
  CHECK(empty.size() == 0);
  CHECK(empty.range(0, 0).empty());
  const auto opened = [](const std::string &path) { return error_of([&] { moe::MappedFile mapped(path); }); };
  CHECK(opened(folder.path("fifo")).find("not a regular file") != std::string::npos);
  CHECK(opened(folder.path("")).find("a directory") != std::string::npos);
  CHECK(opened(folder.path("missing")).starts_with("FILE_UNREADABLE " + folder.path("missing").substr(0, 20)));
  CHECK(opened(std::string("some\0thing", 10)).starts_with("FILE_UNREADABLE some"));
}
