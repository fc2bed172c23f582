# Read inside llama.cpp's own configure, behind its project(): leave out of `common` what Glia never links (command lines,
# downloads, consoles; with them an HTTP library), a sixth of its compile time.  Whoever needs one of them again gets an
# undefined symbol and removes its name here.
function(glia_trim_common)
    get_target_property(sources llama-common SOURCES)
    list(FILTER sources EXCLUDE REGEX "^(arg|console|debug|download|hf-cache|imatrix-loader|llguidance|preset|subproc)\\.")
    get_target_property(libs llama-common LINK_LIBRARIES)
    list(REMOVE_ITEM libs cpp-httplib)
    set_target_properties(llama-common PROPERTIES SOURCES "${sources}" LINK_LIBRARIES "${libs}")
endfunction()
cmake_language(DEFER CALL glia_trim_common)
