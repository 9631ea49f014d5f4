// Checks of moe::Error for the native tests.
#pragma once
#include <doctest/doctest.h>

#include <string>

#include "core/error.h"
#include "moe/error.h"

// "CODE argument: expected …, got …", or "" where the body does not throw.
template <typename Body>
std::string error_of(Body &&body) {
  try {
    body();
  } catch (const moe::Error &error) {
    const moe_error &got = error.get();
    return std::string(moe::code_name(got.code)) + " " + got.argument + ": expected " + got.expected + ", got " +
           got.received;
  }
  return "";
}
