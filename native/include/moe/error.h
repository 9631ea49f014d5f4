// moe::Error carries a moe_error through C++; `guarded` turns it into a code at the C ABI, so that no exception crosses
// it.
#pragma once
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "moe/backend.h"

namespace moe {

class Error : public std::exception {
 public:
  Error(moe_code code, std::string_view argument, std::string_view expected, std::string_view received) {
    error_.code = code;
    copy(error_.argument, argument);
    copy(error_.expected, expected);
    copy(error_.received, received);
  }
  explicit Error(const moe_error &error) : error_(error) {}
  const moe_error &get() const { return error_; }
  const char *what() const noexcept override { return error_.expected; }

 private:
  template <size_t size>
  static void copy(char (&to)[size], std::string_view from) {
    std::snprintf(to, size, "%.*s", static_cast<int>(from.size() < size ? from.size() : size - 1), from.data());
  }
  moe_error error_{};
};

// Runs the body of an ABI function; any exception becomes its code and text.
template <typename Body>
int guarded(moe_error *error, Body &&body) noexcept {
  try {
    body();
    return MOE_OK;
  } catch (const Error &caught) {
    *error = caught.get();
  } catch (const std::bad_alloc &) {
    *error = Error(MOE_OUT_OF_MEMORY, "", "enough host memory", "an allocation that failed").get();
  } catch (const std::exception &caught) {
    *error = Error(MOE_INTERNAL, "", "no failure", caught.what()).get();
  } catch (...) {
    *error = Error(MOE_INTERNAL, "", "no failure", "an exception of an unknown kind").get();
  }
  return error->code;
}

// The other direction: calls an ABI function and throws its error.
template <typename Call>
void check(Call &&call) {
  moe_error error{};
  if (call(&error) != MOE_OK) throw Error(error);
}

}  // namespace moe
