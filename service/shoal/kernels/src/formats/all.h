// Every format's traits. Included where the registry is expanded: formats/registry.cpp,
// isa/table.h.
#pragma once
#include "formats/bf16_packed12.h"
#include "formats/int16_block.h"
#include "formats/int_groups.h"
#include "formats/plain.h"
